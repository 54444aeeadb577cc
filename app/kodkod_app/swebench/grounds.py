"""What an instance stands on: its files, and the Python its tests run in.

    an image of the local daemon     the files are copied out of it, and the box starts from it
    a release on the package index   the source archive with the reference patch taken back, and an environment for it
    a local clone                    its base commit, and the environment the person names

Nothing but releases is fetched, and those once.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Protocol

from kodkod_app import paths
from kodkod_app.boxes import BoxPlan
from kodkod_app.one_at_a_time import one_at_a_time
from kodkod_app.python_environment import find_environment
from kodkod_app.repair_eval.packages import READY, Package, PackageSpec, make_ready, test_variables
from kodkod_app.swebench.rows import Row
from kodkod_app.swebench.work_tree import apply_patch, checkout
from kodkod_sandbox.base import SandboxKind
from kodkod_sandbox.image_files import copy_from_image, has_image, image_path

TEST_COMMAND = ("python", "-m", "pytest")
_IN_IMAGE = "/testbed"
"""Where images of this benchmark have their work tree."""
_IMAGE_PATH = "/opt/miniconda3/envs/testbed/bin:/opt/miniconda3/bin"
"""Official images have their Python there, and activate it by a shell's start-up file, which no box reads."""


class EnvironmentMissing(Exception):
    """An instance has nothing to stand on here."""

    exit_code = 1


class Ground(Protocol):
    """Where an instance's files come from, and what box goes with them. Both block."""

    def lay_out(self, tree: Path) -> None:
        """Write the files into a folder that is not there yet; not a repository, or one whose history is dropped.

        Raises:
            WorkTreeFault, SandboxError, PackageFault: they cannot be had.
        """
        ...

    def box(self, tree: Path) -> BoxPlan:
        """The box for a tree that is laid out. No network, whatever the kind."""
        ...

    @property
    def environment(self) -> Path | None:
        """Python environment of the tests; None where the box has its own."""
        ...


@dataclass(frozen=True, slots=True)
class ImageGround:
    """An image the daemon has."""

    image: str
    environment: Path | None = None

    def lay_out(self, tree: Path) -> None:
        """See `Ground`."""
        copy_from_image(self.image, _IN_IMAGE, tree)

    def box(self, tree: Path) -> BoxPlan:
        """See `Ground`. The tree's modules are found before those installed in the image as it lay there."""
        variables = {
            "PATH": f"{_IMAGE_PATH}:{image_path(self.image)}",
            "PYTHONPATH": test_variables(tree)["PYTHONPATH"],
        }
        return BoxPlan(tree, SandboxKind.DOCKER, test_command=TEST_COMMAND, variables=variables, image=self.image)


@dataclass(frozen=True, slots=True)
class ReleaseGround:
    """A release, broken by taking back the reference patch."""

    package: Package
    environment: Path
    patch: str
    kind: SandboxKind

    def lay_out(self, tree: Path) -> None:
        """See `Ground`."""
        shutil.copytree(self.package.tree, tree, symlinks=True)
        if self.patch:
            apply_patch(tree, self.patch, reverse=True)

    def box(self, tree: Path) -> BoxPlan:
        """See `Ground`."""
        return _box(tree, self.kind, self.environment)


@dataclass(frozen=True, slots=True)
class CloneGround:
    """A commit of a local clone."""

    clone: Path
    commit: str
    environment: Path | None
    kind: SandboxKind

    def lay_out(self, tree: Path) -> None:
        """See `Ground`."""
        checkout(self.clone, self.commit, tree)

    def box(self, tree: Path) -> BoxPlan:
        """See `Ground`."""
        return _box(tree, self.kind, self.environment)


def _box(tree: Path, kind: SandboxKind, environment: Path | None) -> BoxPlan:
    return BoxPlan(
        tree,
        kind,
        find_environment(tree, environment, {}),
        environment_for_docker=environment is not None,
        test_command=TEST_COMMAND,
        variables=test_variables(tree),
    )


@dataclass(frozen=True, slots=True)
class Grounds:
    """Finds the ground of each instance, by what this machine has."""

    kind: SandboxKind
    clones: Path | None = None
    """Folder with clones, each as `OWNER/NAME`, `OWNER__NAME` or `NAME`."""
    environment: Path | None = None
    """For clones."""
    _releases: dict[str, tuple[Package, Path]] = field(default_factory=dict)

    def of(self, row: Row) -> Ground:
        """The ground of an instance: its image if the daemon has it, else its release, else a clone. Blocks.

        Raises:
            EnvironmentMissing: there is none; says what would be one.
            PackageFault: the release cannot be had.
        """
        may_be_docker = self.kind in (SandboxKind.AUTO, SandboxKind.DOCKER)
        if may_be_docker and row.image and has_image(row.image):
            return ImageGround(row.image)
        if row.sdist:
            package, environment = self._release(row.sdist)
            return ReleaseGround(package, environment, row.patch, self.kind)
        if (clone := self._clone(row)) is not None:
            return CloneGround(clone, row.base_commit, self.environment, self.kind)
        image = f"the local Docker daemon has no image {row.image}" if row.image else "the row names no image"
        raise EnvironmentMissing(
            f"{row.instance_id}: {image}, and there is no clone of {row.repo or 'its repository'}; load the image, or "
            "name a folder of clones with --clones DIR"
        )

    def _release(self, pinned: str) -> tuple[Package, Path]:
        if pinned not in self._releases:
            package = make_ready(PackageSpec.parse(pinned))
            self._releases[pinned] = package, environment_without(package)
        return self._releases[pinned]

    def _clone(self, row: Row) -> Path | None:
        if self.clones is None or not row.repo or not row.base_commit:
            return None
        names = (row.repo, row.repo.replace("/", "__"), row.repo.rpartition("/")[2])
        return next((self.clones / name for name in names if (self.clones / name).is_dir()), None)


def environment_without(package: Package) -> Path:
    """A copy of a release's environment in which the release itself, sound as it is, cannot be read. Blocks."""
    folder = paths.cache_folder() / "swebench" / package.spec.pinned.replace("==", "-") / "env"
    with one_at_a_time(folder.parent):
        if not (folder / READY).exists():
            shutil.rmtree(folder, ignore_errors=True)
            # The mark of the one that is copied would say of half a copy that it is ready, with the release in it.
            shutil.copytree(package.environment, folder, symlinks=True, ignore=shutil.ignore_patterns(READY))
            _remove_modules(package.spec.name, folder)
            (folder / READY).touch()
    return folder


def _remove_modules(name: str, environment: Path) -> None:
    site = next(environment.glob("lib/python3*/site-packages"))
    found = next(iter(metadata.distributions(name=name, path=[str(site)])), None)
    for file in (found.files or []) if found else []:
        path = Path(str(file.locate()))
        if path.is_relative_to(site) and ".dist-info" not in path.parts[len(site.parts)]:
            path.unlink(missing_ok=True)
    for cached in site.rglob("__pycache__"):
        if not any(cached.parent.glob("*.py")):
            shutil.rmtree(cached)
