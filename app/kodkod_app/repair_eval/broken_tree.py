"""A copy of a broken package where the agent works: a repository with the fault committed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree, ignore_patterns

from kodkod_app.boxes import BoxPlan
from kodkod_app.candidate_places import copy_folder
from kodkod_app.nano.broken import Instance
from kodkod_app.nano.packages import Package
from kodkod_app.nano.releases import environment, variables_of_tests
from kodkod_app.own_git import begin_repository, commit_all, own_git
from kodkod_app.python_environment import find_environment
from kodkod_sandbox.choose import SandboxKind
from kodkod_tools.config import ToolsConfig

TOOLS = ToolsConfig(test_command=("python", "-m", "pytest", "-o", "addopts="), test_timeout_s=60.0)
"""How the agent runs the tests: without the options of the package's own, which may name plugins that are not there."""
_NOT_COPIED = ignore_patterns(".git", "__pycache__", ".pytest_cache")


@dataclass(frozen=True, slots=True)
class BrokenTree:
    """A tree that may be changed, and a folder beside it."""

    package: Package
    tree: Path
    logs: Path

    def changes(self) -> Mapping[str, str]:
        """Texts of the files that are no longer as they were committed, by path."""
        told = own_git(self.tree, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=no")
        named = [entry[3:] for entry in told.split("\0") if entry]
        files = {path: self.tree / path for path in named if (self.tree / path).is_file()}
        return {path: file.read_text(encoding="utf-8", errors="replace") for path, file in files.items()}


@contextmanager
def open_broken_tree(package: Package, instance: Instance) -> Iterator[BrokenTree]:
    """A fresh copy with the fault in it, removed afterwards."""
    with copy_folder() as parent:
        tree = parent / "tree"
        copytree(package.tree, tree, symlinks=True, ignore=_NOT_COPIED)
        (tree / instance.path).write_text(instance.broken, encoding="utf-8")
        (parent / "logs").mkdir()
        begin_repository(tree)
        commit_all(tree)
        yield BrokenTree(package, tree, parent / "logs")


def box_plan(package: Package, tree: Path, kind: SandboxKind) -> BoxPlan:
    """A box for a copy of the package, with the environment of its tests."""
    return BoxPlan(
        tree,
        kind,
        find_environment(tree, environment(package), {}),
        environment_for_docker=True,
        test_command=TOOLS.test_command,
        variables=variables_of_tests(package.spec, tree),
    )
