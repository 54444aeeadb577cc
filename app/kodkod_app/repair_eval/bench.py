"""A copy of a package in a box, where it is broken and its tests are run."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from kodkod_agent.config import AgentConfig
from kodkod_agent.verify import run_tests
from kodkod_app.boxes import BoxPlan, open_box
from kodkod_app.candidate_places import copy_folder
from kodkod_app.python_environment import find_environment
from kodkod_app.repair_eval.packages import Package, test_variables
from kodkod_sandbox.base import Sandbox
from kodkod_sandbox.choose import SandboxKind
from kodkod_tools.base import ToolContext
from kodkod_tools.config import ToolsConfig
from kodkod_tools.locate.suspects import Trace, read_trace
from kodkod_tools.locate.tracing import MAX_TRACE_BYTES, TRACE_FILE, tracing
from kodkod_tools.scratch import read_scratch, scratch

TOOLS = ToolsConfig(test_command=("python", "-m", "pytest"))
"""How the tests are run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What tests said."""

    failed: frozenset[str]
    """Ids, those with errors among them."""
    passed: int
    is_known: bool
    """The run came to its end, and its result could be read."""

    def mends(self, failing: Collection[str], failed_before: Collection[str]) -> bool:
        """Whether the failing tests pass and no other fails that did not."""
        return self.is_known and self.passed > 0 and self.failed <= set(failed_before) - set(failing)


@dataclass(frozen=True, slots=True)
class Bench:
    """A tree that may be changed, and a box on it."""

    package: Package
    tree: Path
    box: Sandbox
    logs: Path

    async def run(self, targets: Sequence[str], timeout_s: float = 60.0) -> Outcome:
        """Run tests as the test tool does."""
        config = TOOLS.model_copy(update={"test_timeout_s": timeout_s})
        context = ToolContext(self.box, self.tree, config, self.logs)
        facts = (await run_tests(AgentConfig(test_targets=tuple(targets)), context)).facts
        names, passed = facts.get("failed_tests"), facts.get("passed")
        is_known = isinstance(names, list) and isinstance(passed, int)
        failed = frozenset(str(name) for name in names) if isinstance(names, list) else frozenset()
        return Outcome(failed, passed if isinstance(passed, int) else 0, is_known)

    async def trace(self, targets: Sequence[str], timeout_s: float = 60.0) -> Trace | None:
        """Run tests and record which lines each runs; None where that fails."""
        with scratch(self.tree) as place:
            traced = tracing(place, self.tree, self.box.options.env.get("PYTHONPATH", ""))
            options = [*traced.options, "-q", "-o", f"cache_dir={place.absolute / 'cache'}"]
            environment = {**traced.environment, "PYTHONDONTWRITEBYTECODE": "1"}
            await self.box.exec(
                [*TOOLS.test_command, *options, *targets], cwd=self.tree, env=environment, timeout_s=timeout_s
            )
            data = read_scratch(place, TRACE_FILE, MAX_TRACE_BYTES)
        try:
            return None if data is None else read_trace(data)
        except ValueError:
            return None

    def read(self, path: str) -> str:
        """A module's text."""
        return (self.tree / path).read_text(encoding="utf-8")

    def write(self, path: str, text: str) -> None:
        """Change a module."""
        (self.tree / path).write_text(text, encoding="utf-8")


@asynccontextmanager
async def open_bench(package: Package, kind: SandboxKind) -> AsyncIterator[Bench]:
    """A fresh copy of a package, removed afterwards.

    Raises:
        SandboxError: no box can be had.
    """
    with copy_folder() as parent:
        tree = parent / "tree"
        await asyncio.to_thread(shutil.copytree, package.tree, tree, symlinks=True)
        (parent / "logs").mkdir()
        async with open_box(box_plan(package, tree, kind)) as box:
            yield Bench(package, tree, box, parent / "logs")


def box_plan(package: Package, tree: Path, kind: SandboxKind) -> BoxPlan:
    """A box for a copy of the package, with the environment of its tests."""
    return BoxPlan(
        tree,
        kind,
        find_environment(tree, package.environment, {}),
        environment_for_docker=True,
        test_command=TOOLS.test_command,
        variables=test_variables(tree),
    )
