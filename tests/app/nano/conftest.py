"""A vocabulary learnt from the program's own source, and a module to plant faults in."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from kodkod_app.nano.corpus import CorpusPackage, Module, read_module
from kodkod_app.nano.tokenizer_training import train, write
from kodkod_engine.chat.tokenizer import Tokenizer

SOURCES = ("kodkod_agent", "kodkod_app", "kodkod_engine", "kodkod_tools")


def own_source() -> list[str]:
    """Every module of the program's packages, as text."""
    roots = [Path(str(files(name))) for name in SOURCES]
    return [path.read_text(encoding="utf-8") for root in roots for path in sorted(root.rglob("*.py"))]


@pytest.fixture(scope="session")
def code_lines() -> list[str]:
    return sorted({line for text in own_source() for line in text.split("\n")})


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano-tokenizer")
    write(train(own_source(), times=20), folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(tokenizer_folder)


@pytest.fixture(scope="session")
def module() -> Module:
    """The module that keeps lines and windows: plain functions with loops, comparisons and arithmetic."""
    path = Path(str(files("kodkod_tools"))) / "text" / "lines.py"
    found = read_module("kodkod", "kodkod_tools/text/lines.py", path.read_bytes(), set())
    assert found is not None
    return found


FUNCTION = "def area(width, height):\n    if width < 0:\n        return 0\n    return width * height\n"
METHOD = "class Box:\n    @property\n    def size(self):\n        side = self.side\n        return side * side\n"


def _make_wheel(folder: Path, name: str = "shapes", version: str = "1.0") -> CorpusPackage:
    """A wheel with code, tests and a vendored copy; how the corpus would name it."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    sources = {
        f"{name}/area.py": FUNCTION + METHOD,
        f"{name}/again.py": FUNCTION.replace("\n", "\n    ").join(["if True:\n    ", "\n"]),
        f"{name}/broken.py": "def (:\n",
        f"{name}/_vendor/other.py": FUNCTION.replace("area", "vendored"),
        f"{name}/tests/test_area.py": FUNCTION.replace("area", "test_area"),
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in sources.items():
            archive.writestr(member, text)
        info = f"{name}-{version}.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: MIT\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return CorpusPackage(name=name, version=version, sha256=digest, licence="MIT")


@pytest.fixture(scope="session")
def make_wheel() -> Callable[..., CorpusPackage]:
    """Put a wheel into a folder; how the corpus would name it."""
    return _make_wheel
