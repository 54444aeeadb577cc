"""Broken repositories to show the main job on: a copy of an example, or a published package with a planted fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from kodkod_app.candidate_places import copy_folder
from kodkod_app.nano.broken import broken_instances
from kodkod_app.nano.packages import PackageFault
from kodkod_app.nano.releases import PLAIN_PYTEST, environment, release, variables_of_tests
from kodkod_app.nano.workshop import prepare
from kodkod_app.own_git import begin_repository, commit_all
from kodkod_app.repair_eval.broken_tree import open_broken_tree

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
        begin_repository(tree)
        commit_all(tree)
        yield Broken(f"the example {folder.name}", tree, failing_tests, variables=PLAIN_PYTEST)


@contextmanager
def broken_package(pinned: str, seed: int, tell: Callable[[str], None]) -> Iterator[Broken]:
    """A published package with one fault that its own tests show, removed afterwards.

    Raises:
        PackageFault: it cannot be had, or its tests show no fault.
        RunnerFault: its tests cannot be run.
    """
    tell(f"{pinned}: fetching it and what its tests need")
    package = release(pinned)
    tell(f"{pinned}: looking for a fault that its tests show")
    with prepare(package) as workshop:
        instance = next(broken_instances(workshop, Random(f"{seed} {pinned}"), 1), None)
    if instance is None:
        raise PackageFault(f"the tests of {pinned} show none of the faults tried; choose another --seed")
    with open_broken_tree(package, instance) as bench:
        what = f"{pinned} with a fault of the class {instance.fault.kind.replace('_', ' ')}"
        variables = variables_of_tests(package.spec, bench.tree)
        yield Broken(what, bench.tree, instance.failing_tests, environment(package), variables)
