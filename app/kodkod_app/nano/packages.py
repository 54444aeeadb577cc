"""Published packages with test suites of their own: named releases, fetched as source archives and unpacked.

`packages.toml` names each release, the digest of its archive, its licence and its part: to learn from, or to be
measured on. Nothing of an archive is built or installed; its tests import it from where it was unpacked.

cache/nano/packages/toolz-0.12.1/tree    the archive's content
cache/nano/packages/toolz-0.12.1/site    what its tests need besides pytest
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from urllib.parse import urljoin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kodkod_app import paths

_INDEX_PAGE = "application/vnd.pypi.simple.v1+json"
_MAX_PAGE_BYTES = 64 * 1024**2
_MAX_ARCHIVE_BYTES = 64 * 1024**2
_TIMEOUT_S = 60.0
_INSTALL_TIMEOUT_S = 600.0
_CONFIGURED_INDEX = re.compile(r"Base URL of the Python Package Index \(default (\S+?)\)")


class PackageFault(Exception):
    """A package cannot be fetched or unpacked, or is not known."""

    exit_code = 1


class Role(StrEnum):
    """What a package is there for."""

    TRAIN = "train"
    HELD_OUT = "held_out"


class PackageSpec(BaseModel):
    """One entry of `packages.toml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    licence: str
    role: Role
    tests: tuple[str, ...] = Field(min_length=1)
    """Files and folders of the archive that pytest is given."""
    source: str = "."
    """Folder of the archive from which its modules are imported."""
    requirements: tuple[str, ...] = ()
    """What its tests need besides pytest: pinned, pure Python, dependencies named too."""
    with_dependencies: bool = False
    """pip is to find the dependencies of the requirements: for releases that are not in the file."""

    @property
    def pinned(self) -> str:
        """`NAME==VERSION`."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True, slots=True)
class Package:
    """A release that is unpacked."""

    spec: PackageSpec
    folder: Path
    """For what else is made of it."""
    tree: Path
    """As published; not for changing."""

    @property
    def import_folders(self) -> tuple[Path, ...]:
        """Where what its tests need is imported from, besides its own `source` in a copy of the tree."""
        return (self.folder / "site",) if self.spec.requirements else ()


class IndexFile(BaseModel):
    """A file of a project, as the index names it."""

    url: str
    """May be relative to the page."""
    hashes: dict[str, str]


class _IndexPage(BaseModel):
    files: list[IndexFile]


@functools.cache
def known_packages(role: Role | None = None) -> tuple[PackageSpec, ...]:
    """Those of the file, in its order; all of them, or those of one part."""
    entries = tomllib.loads((files(__package__) / "packages.toml").read_text(encoding="utf-8"))["package"]
    specs = (PackageSpec.model_validate(entry) for entry in entries)
    return tuple(spec for spec in specs if role is None or spec.role is role)


def known_package(name: str) -> PackageSpec:
    """The one of this name.

    Raises:
        PackageFault: there is none.
    """
    found = next((spec for spec in known_packages() if spec.name == name), None)
    if found is None:
        raise PackageFault(f"{name} is not in packages.toml; known are {', '.join(s.name for s in known_packages())}")
    return found


def make_ready(spec: PackageSpec) -> Package:
    """Fetch and unpack what is not there yet; quick the second time.

    Raises:
        PackageFault: the index has no such archive, cannot be reached, or gave something else.
    """
    folder = paths.cache_folder() / "nano" / "packages" / f"{spec.name}-{spec.version}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "tree").is_dir():
        _unpack(spec, folder)
    if spec.requirements and not (folder / "site").is_dir():
        _install(spec, folder)
    return Package(spec, folder, folder / "tree")


def write_manifest(specs: Sequence[PackageSpec], path: Path) -> None:
    """Which releases were used, with digests and licences, as one JSON object each."""
    entries = [spec.model_dump(mode="json") for spec in specs]
    path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def _unpack(spec: PackageSpec, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        archive = Path(name) / "archive.tar.gz"
        archive.write_bytes(_fetched(spec))
        try:
            with tarfile.open(archive) as opened:
                opened.extractall(Path(name) / "content", filter="data")
            (top,) = (path for path in (Path(name) / "content").iterdir() if path.is_dir())
        except (tarfile.TarError, ValueError, OSError) as error:
            raise PackageFault(f"the archive of {spec.pinned} cannot be unpacked: {error}") from error
        top.rename(folder / "tree")


def archives(name: str) -> list[IndexFile]:
    """The files of a project, with whole addresses.

    Raises:
        PackageFault: the index cannot be read.
    """
    page_url = f"{_index_url().rstrip('/')}/{name}/"
    try:
        page = _IndexPage.model_validate_json(_get(page_url, _MAX_PAGE_BYTES))
    except ValidationError as error:
        raise PackageFault(f"the index gives no page in JSON for {name}; set pip's index-url to one") from error
    return [file.model_copy(update={"url": urljoin(page_url, file.url)}) for file in page.files]


def _fetched(spec: PackageSpec) -> bytes:
    """The archive with the digest that the entry names."""
    file = next((file for file in archives(spec.name) if file.hashes.get("sha256") == spec.sha256), None)
    if file is None:
        raise PackageFault(f"the index has no archive of {spec.pinned} with the digest in packages.toml")
    data = _get(file.url, _MAX_ARCHIVE_BYTES)
    if hashlib.sha256(data).hexdigest() != spec.sha256:
        raise PackageFault(f"what came for {spec.pinned} has another digest than packages.toml; try again")
    return data


def _get(url: str, max_bytes: int) -> bytes:
    if not url.startswith("https://"):
        raise PackageFault(f"{url} is no https address; set pip's index-url to one")
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT"))
    request = urllib.request.Request(url, headers={"Accept": _INDEX_PAGE})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S, context=context) as answer:
            data: bytes = answer.read(max_bytes + 1)
    except (urllib.error.URLError, OSError) as error:
        doubtful = "name" if getattr(error, "code", None) == HTTPStatus.NOT_FOUND else "network"
        raise PackageFault(f"{url} cannot be read: {error}; check the {doubtful}, then run it again") from error
    if len(data) > max_bytes:
        raise PackageFault(f"{url} has more than {max_bytes} bytes")
    return data


@functools.cache
def _index_url() -> str:
    """The index pip uses here: its help names the one configured, or its own default."""
    command = [sys.executable, "-m", "pip", "download", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S).stdout
    found = _CONFIGURED_INDEX.search(" ".join(told.split()))
    if found is None:
        raise PackageFault("pip does not say which index it uses; set index-url in its configuration")
    return found[1]


def _install(spec: PackageSpec, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        target = Path(name) / "site"
        alone = () if spec.with_dependencies else ("--no-deps",)
        command = [
            sys.executable, "-m", "pip", "--quiet", "install", *alone, "--target", str(target), *spec.requirements
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_TIMEOUT_S)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise PackageFault(f"pip cannot install what the tests of {spec.pinned} need: {last}")
        shutil.move(target, folder / "site")
