"""Which image a Docker box starts from: the project's own, cached by content, or the base that every box can use.

A project's image is made from what its repository says, in this order: `Dockerfile`, `.devcontainer/devcontainer.json`,
then the Python requirements in `pyproject.toml`, `requirements*.txt`, `setup.cfg` and `setup.py` (read, never run).
These and pytest go into a virtual environment at `/opt/kodkod/venv` that leads the image's PATH. The image's name holds
a hash of all that went in, so an image is built once for each state of those files.

Building runs the repository's own instructions. It may use the network only when the caller says so, and never sees
the user's files beyond the work tree. Packages come by the way this machine's pip takes; how that is set up is known to
a first stage of the build alone, and is not in the image.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from kodkod_sandbox.daemon import STAGE_LABEL, Daemon
from kodkod_sandbox.environment import SYSTEM_PATH
from kodkod_sandbox.errors import ImageError
from kodkod_sandbox.package_index import PIP_ARGUMENTS, PackageIndex, package_index, proxies
from kodkod_sandbox.requirements import declared_requirements, listed_requirements, requirement_files

VENV = "/opt/kodkod/venv"
"""Where a project's Python requirements are in its image."""

_HERE = Path(__file__).parent
RECIPES = next(
    (path for path in (_HERE / "images_data", _HERE.parent / "images") if path.is_dir()), _HERE.parent / "images"
)
_REQUIREMENTS = "/opt/kodkod/requirements"
_CERTIFICATES = "kodkod-certificates.pem"
_ENVIRONMENTS = (".venv", "venv")
_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING_COMMA = re.compile(r",(\s*[}\]])")


def _hash(*parts: bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()[:16]


def _base_tag() -> str:
    names = ("Dockerfile", "packages.txt")
    return f"kodkod-base:{_hash(*((RECIPES / name).read_bytes() for name in names if (RECIPES / name).is_file()))}"


BASE_TAG = _base_tag()
"""The base image's name: it changes with its recipe."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a project's image is built."""

    source: str
    """The file of the repository that says so."""
    dockerfile: str
    """Its path in the build's folder."""
    folder: Path | None
    """What the build sees; None when `files` is all."""
    files: dict[str, str]
    """Files of the build that are not the repository's own, by path."""
    tag: str


@dataclass(frozen=True, slots=True)
class Image:
    """What a box starts from."""

    tag: str
    note: str = ""
    """Why it is not the project's own image, for the person; empty when it is, or when the project asks for none."""


BASE = Image(BASE_TAG)


class _Build(BaseModel):
    dockerfile: str = "Dockerfile"
    context: str = "."


class _DevContainer(BaseModel):
    image: str | None = None
    build: _Build | None = None
    docker_file: str | None = Field(default=None, alias="dockerFile")


def find_recipe(work_tree: Path) -> Recipe | None:
    """What the repository says about its image; None when it says nothing.

    Raises:
        ImageError: what it says cannot be read, or leads outside the work tree.
    """
    for find in (_from_dockerfile, _from_devcontainer, _from_python):
        if recipe := find(work_tree):
            return recipe
    return None


def _from_dockerfile(work_tree: Path) -> Recipe | None:
    path = work_tree / "Dockerfile"
    return _of_folder(work_tree, path, work_tree) if path.is_file() else None


def _of_folder(work_tree: Path, dockerfile: Path, folder: Path) -> Recipe:
    for path in (dockerfile, folder):
        if not _is_inside(path, work_tree):
            raise ImageError(f"{str(path)!r} is outside the work tree: an image is built from what is inside")
    if not dockerfile.is_file():
        raise ImageError(f"{dockerfile} does not exist, though the repository names it: add it, or correct the name")
    folder = folder.resolve()
    texts = [path.read_bytes() for path in (dockerfile, *requirement_files(work_tree))]
    name = os.path.relpath(dockerfile, folder)
    return Recipe(name, name, folder, {}, f"kodkod-project:{_hash(name.encode(), *texts)}")


def _is_inside(path: Path, work_tree: Path) -> bool:
    try:
        return path.resolve().is_relative_to(work_tree.resolve())
    except (OSError, RuntimeError, ValueError):  # a link to itself, a zero byte: it leads nowhere
        return False


def _from_devcontainer(work_tree: Path) -> Recipe | None:
    path = work_tree / ".devcontainer" / "devcontainer.json"
    if not path.is_file():
        return None
    text = _COMMENT.sub(lambda found: found[1] or "", path.read_text(encoding="utf-8", errors="replace"))
    try:
        said = _DevContainer.model_validate_json(_TRAILING_COMMA.sub(r"\1", text))
    except ValidationError as cause:
        raise ImageError(f"{path} cannot be read: {cause.errors()[0]['msg']}") from cause
    if said.build or said.docker_file:
        build = said.build or _Build(dockerfile=said.docker_file or "Dockerfile")
        return _of_folder(work_tree, path.parent / build.dockerfile, path.parent / build.context)
    if said.image and (words := said.image.split()):
        return _of_text(str(path.relative_to(work_tree)), f"FROM {words[0]}\n", {})
    return None


def _from_python(work_tree: Path) -> Recipe | None:
    listed, declared = listed_requirements(work_tree), declared_requirements(work_tree)
    if not listed and not declared:
        return None
    top = [name for name in listed if (work_tree / name).parent == work_tree and name.startswith("requirements")]
    if declared:
        listed["declared.txt"] = "".join(f"{line}\n" for line in declared)
        top.append("declared.txt")
    source = ", ".join(path.name for path in requirement_files(work_tree))
    return _of_text(source, _python_dockerfile(top), listed)


def _python_dockerfile(files: list[str]) -> str:
    pip = ["python3", "-m", "pip", "--python", f"{VENV}/bin/python", "install", "--no-cache-dir"]
    install = [*pip, "pytest", *(f"--requirement={name}" for name in files)]
    return "\n".join(
        (
            f"FROM {BASE_TAG} AS requirements",
            *(f"ARG {name}" for name in (*PIP_ARGUMENTS, "KODKOD_STAGE")),
            f"LABEL {STAGE_LABEL}=$KODKOD_STAGE",
            f"WORKDIR {_REQUIREMENTS}",
            "COPY . .",
            f"RUN {json.dumps(['python3', '-m', 'venv', '--without-pip', VENV])}",
            f"RUN {json.dumps(install)}",
            f"FROM {BASE_TAG}",
            f"COPY --from=requirements {VENV} {VENV}",
            f"ENV VIRTUAL_ENV={VENV} PATH={VENV}/bin:{SYSTEM_PATH}",
            "",
        )
    )


def _of_text(source: str, text: str, files: dict[str, str]) -> Recipe:
    parts = [part.encode() for name in sorted(files) for part in (name, files[name])]
    return Recipe(
        source, "Dockerfile", None, {**files, "Dockerfile": text}, f"kodkod-project:{_hash(text.encode(), *parts)}"
    )


def image_for(
    work_tree: Path, daemon: Daemon, *, allow_build_network: bool = False, tell: Callable[[str], None] | None = None
) -> Image:
    """The image for a project, built when it is not there yet and building is allowed the network.

    Args:
        tell: takes a line for the person before something that takes its time.

    Raises:
        ImageError: neither the project's image nor the base can be had; says how to get one.
    """
    if image := ready_image(work_tree, daemon):
        return image
    recipe = find_recipe(work_tree)
    if recipe is None or recipe.folder is None or not allow_build_network:
        ensure_base(daemon, allow_build_network=allow_build_network)
    if recipe is None:
        return Image(BASE_TAG, _note_on_own_environment(work_tree))
    if not allow_build_network:
        return Image(
            BASE_TAG,
            f"the Docker image that {recipe.source} describes is not built, and the base one stands in for it: have it "
            "built by --allow-build-network",
        )
    if tell:
        tell(f"building the Docker image that {recipe.source} describes; this is done once")
    build(recipe, daemon, network=True)
    return Image(recipe.tag)


def ready_image(work_tree: Path, daemon: Daemon) -> Image | None:
    """The image for a project where nothing is to be built for it.

    Raises:
        ImageError: what the repository says of it cannot be read.
    """
    recipe = find_recipe(work_tree)
    if recipe:
        return Image(recipe.tag) if daemon.has_image(recipe.tag) else None
    return Image(BASE_TAG, _note_on_own_environment(work_tree)) if daemon.has_image(BASE_TAG) else None


def _note_on_own_environment(work_tree: Path) -> str:
    found = next((name for name in _ENVIRONMENTS if (work_tree / name / "bin" / "python").exists()), None)
    if found is None:
        return ""
    return (
        f"Docker's base image has Python and pytest alone, and nothing of {found}: list what the tests need in "
        "requirements.txt"
    )


def build(recipe: Recipe, daemon: Daemon, *, network: bool) -> None:
    """Build a project's image.

    Raises:
        ImageError: the build failed.
    """
    arguments = proxies() if network else {}
    try:
        if recipe.folder is not None:
            daemon.build_image(recipe.folder, recipe.dockerfile, recipe.tag, network=network, arguments=arguments)
            return
        index = package_index() if network else PackageIndex()
        with tempfile.TemporaryDirectory() as folder:
            arguments |= {"KODKOD_STAGE": recipe.tag, **_lay_out(recipe, index, Path(folder))}
            try:
                daemon.build_image(Path(folder), recipe.dockerfile, recipe.tag, network=network, arguments=arguments)
            finally:
                daemon.remove_stages(recipe.tag)
    except ImageError as fault:
        raise ImageError(f"the Docker image that {recipe.source} describes cannot be built: {fault}") from fault


def _lay_out(recipe: Recipe, index: PackageIndex, folder: Path) -> dict[str, str]:
    """Write what the build sees; the arguments that go with it."""
    for name, text in recipe.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    if index.certificates is None or BASE_TAG not in recipe.files["Dockerfile"]:
        return dict(index.arguments)
    shutil.copyfile(index.certificates, folder / _CERTIFICATES)
    return {**index.arguments, "PIP_CERT": f"{_REQUIREMENTS}/{_CERTIFICATES}"}


def ensure_base(daemon: Daemon, *, allow_build_network: bool) -> None:
    """Have the base image: from a registry, or from Debian packages where none is reached.

    Raises:
        ImageError: it is not there and cannot be made.
    """
    if daemon.has_image(BASE_TAG):
        return
    if not allow_build_network:
        raise ImageError(
            f"Docker has no image {BASE_TAG}: allow building it, or run {RECIPES}/build_base_debootstrap.sh"
        )
    try:
        daemon.build_image(RECIPES, "Dockerfile", BASE_TAG, network=True, arguments=proxies())
    except ImageError:
        if os.geteuid() != 0 or shutil.which("debootstrap") is None:
            raise
        done = subprocess.run([RECIPES / "build_base_debootstrap.sh", BASE_TAG], stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            raise


if __name__ == "__main__":
    if sys.argv[1:] == ["base-tag"]:
        sys.stdout.write(f"{BASE_TAG}\n")
    else:
        sys.exit("usage: python -m kodkod_sandbox.images base-tag")
