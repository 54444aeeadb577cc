"""The agent on one broken package: the very run of `kodkod fix`, with nobody watching."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from kodkod_agent import events
from kodkod_agent.policy import PermissionMode
from kodkod_agent.report import RunReport
from kodkod_agent.state import Status
from kodkod_agent.tally import Tally
from kodkod_app.bootstrap import Model
from kodkod_app.headless import Scene, run_with
from kodkod_app.nano.releases import environment, variables_of_tests
from kodkod_app.repair_eval.broken_tree import TOOLS, BrokenTree, box_plan
from kodkod_app.repair_prompt import failing_prompt
from kodkod_app.session_opening import RunOptions
from kodkod_app.settings import Settings
from kodkod_sandbox.choose import SandboxKind

_BY_ITSELF = (Status.DONE, Status.UNVERIFIED)


@dataclass(slots=True)
class Watcher:
    """A renderer that shows nothing, and keeps the report."""

    report: RunReport | None = None
    tally: Tally = field(default_factory=Tally)

    def begin(self, scene: Scene) -> None:
        """Nothing to show."""

    def show(self, event: events.Event) -> None:
        """Counted alone."""
        self.tally.count(event)

    def end(self, report: RunReport, exit_code: int) -> None:
        """Kept."""
        del exit_code
        self.report = report


@dataclass(frozen=True, slots=True)
class Repair:
    """What the agent did, before anyone judged it."""

    report: RunReport
    tally: Tally
    """Of the first candidate, and of the last check."""
    seconds: float

    @property
    def calls(self) -> int:
        """Of all candidates."""
        return sum(one.calls for one in self.report.candidates) or self.tally.calls

    @property
    def malformed_calls(self) -> int:
        """Of all candidates."""
        return sum(one.malformed_calls for one in self.report.candidates) or self.tally.malformed_calls

    @property
    def tried_edits(self) -> int:
        """Changed trees that were tested: one for each candidate that wrote an edit."""
        changes = [one.change for one in self.report.candidates] or [self.tally.change]
        return sum(map(bool, changes))

    @property
    def ended_by_itself(self) -> bool:
        """Neither the run nor a candidate was ended from outside."""
        return all(status in _BY_ITSELF for status in (self.report.status, *(c.status for c in self.report.candidates)))


async def repair(
    bench: BrokenTree, failing_tests: tuple[str, ...], model: Model, settings: Settings, keep: Path, kind: SandboxKind
) -> Repair:
    """Have the agent repair the bench's tree, which is a repository with the fault committed.

    Args:
        bench: the tree.
        failing_tests: what the agent is told.
        model: open.
        settings: of the run.
        keep: where the trajectories are put.
        kind: of box.

    Raises:
        EngineError, SandboxError: a fault.
    """
    watcher, started = Watcher(), time.monotonic()
    agent = settings.agent.model_copy(update={"attended": False, "test_targets": failing_tests})
    changed = {
        "agent": agent,
        "tools": TOOLS,
        "sandbox": kind,
        "env": environment(bench.package),
        "permission_mode": PermissionMode.ACCEPT_EDITS,
    }
    sessions = bench.logs / "sessions"
    options = RunOptions(
        bench.tree,
        settings.model_copy(update=changed),
        failing_prompt(failing_tests),
        variables=variables_of_tests(bench.package.spec, bench.tree),
        sessions=sessions,
    )
    await run_with(options, model, box_plan(bench.package, bench.tree, kind), watcher)
    _keep_trajectories(sessions, keep)
    assert watcher.report is not None, "a run that began is reported"
    return Repair(watcher.report, watcher.tally, time.monotonic() - started)


def _keep_trajectories(sessions: Path, keep: Path) -> None:
    keep.mkdir(parents=True, exist_ok=True)
    for path in sorted(sessions.glob("*/trajectory.jsonl")):
        shutil.copyfile(path, keep / f"{path.parent.name}.jsonl")
