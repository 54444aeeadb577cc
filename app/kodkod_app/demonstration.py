"""Broken repositories to show the main job on: a copy of an example, or a published package with a planted fault."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kodkod_app.candidate_places import copy_folder
from kodkod_app.repair_eval.bench import commit_all, open_bench
from kodkod_app.repair_eval.instances import Instance, measure, plant_faults
from kodkod_app.repair_eval.packages import PLAIN_PYTEST, Package, PackageFault, PackageSpec, make_ready, test_variables
from kodkod_sandbox.choose import SandboxKind

EXAMPLE = "timesheet"


@dataclass(frozen=True, slots=True)
class Broken:
    """A repository with failing tests, outside of anything that is a person's."""

    what: str
    """One line."""
    tree: Path
    failing_tests: Sequence[str]
    environment: Path | None = None
    """Python for its tests; None looks for one."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What its tests need to see."""


class NoExample(Exception):
    """The examples are not part of this installation."""

    exit_code = 2


def example_folder() -> Path:
    """The example that comes with the source.

    Raises:
        NoExample: this is an installation without it.
    """
    folder = Path(__file__).resolve().parents[2] / "examples" / EXAMPLE
    if not folder.is_dir():
        raise NoExample(f"there is no {folder}; name a folder and its failing tests, or give --package NAME==VERSION")
    return folder


@contextmanager
def example_copy(folder: Path, failing_tests: Sequence[str]) -> Iterator[Broken]:
    """A copy with a history of one commit, removed afterwards."""
    with copy_folder() as parent:
        tree = parent / folder.resolve().name
        shutil.copytree(folder, tree, ignore=shutil.ignore_patterns(".git", "__pycache__", ".pytest_cache"))
        commit_all(tree)
        yield Broken(f"the example {folder.name}", tree, failing_tests, variables=PLAIN_PYTEST)


@contextmanager
def broken_package(pinned: str, seed: int, kind: SandboxKind, tell: Callable[[str], None]) -> Iterator[Broken]:
    """A published package with one fault that its own tests show, removed afterwards.

    Raises:
        PackageFault: it cannot be had, or its tests show no fault.
        SandboxError: no box can be had to run its tests.
    """
    tell(f"{pinned}: fetching it and what its tests need")
    package = make_ready(PackageSpec.parse(pinned))
    tell(f"{pinned}: looking for a fault that its tests show")
    instance = asyncio.run(_first_fault(package, seed, kind))
    with copy_folder() as parent:
        tree = parent / package.spec.name
        shutil.copytree(package.tree, tree, symlinks=True)
        (tree / instance.fault.path).write_text(instance.broken, encoding="utf-8")
        commit_all(tree)
        what = f"{pinned} with a fault of the class {instance.fault.kind.replace('_', ' ')}"
        yield Broken(what, tree, instance.fault.failing_tests, package.environment, test_variables(tree))


async def _first_fault(package: Package, seed: int, kind: SandboxKind) -> Instance:
    async with open_bench(package, kind) as bench:
        baseline = await measure(bench)
        if baseline is None:
            raise PackageFault(f"the tests of {package.spec.pinned} cannot be used here; choose another package")
        async for instance in plant_faults(bench, baseline, seed, 1):
            return instance
    raise PackageFault(f"the tests of {package.spec.pinned} show none of the faults tried; choose another --seed")
