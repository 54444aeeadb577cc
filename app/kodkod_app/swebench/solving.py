"""One attempt: files laid out, the very run of `kodkod fix` on them with nobody watching, what came of it recorded.

work/ID.run-N/tree        the work tree, one commit
work/ID.run-N/sessions    the agent's sessions: a killed attempt goes on from here
trajectories/ID.run-N/    what is kept: trajectories, and the same in the interchange format
"""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from kodkod_agent import trajectory
from kodkod_agent.errors import AgentError
from kodkod_agent.policy import PermissionMode
from kodkod_agent.report import RunReport
from kodkod_agent.session_folder import SessionFolder, list_sessions
from kodkod_agent.state import Status
from kodkod_app.bootstrap import Model
from kodkod_app.headless import NothingToDo, run_with
from kodkod_app.repair_eval.agent_run import Repair, Watcher
from kodkod_app.repair_prompt import failing_prompt, issue_prompt
from kodkod_app.session_export import NothingToExport, as_atif
from kodkod_app.session_opening import RunOptions
from kodkod_app.settings import Settings
from kodkod_app.swebench.grounds import TEST_COMMAND, Ground
from kodkod_app.swebench.records import Attempt, attempt_key
from kodkod_app.swebench.rows import Row
from kodkod_app.swebench.work_tree import make_single_commit
from kodkod_sandbox.removal import remove_tree
from kodkod_tools.config import ToolsConfig

STATUSES = {
    Status.DONE: "Submitted",
    Status.UNVERIFIED: "Unverified",
    Status.LIMIT: "LimitsExceeded",
    Status.INTERRUPTED: "Interrupted",
}
"""What others call the ends of a run."""
_TEST_ID = re.compile(r"[\w./-]+\.py::[^\s,;`'\"]+")
_LAID_OUT = "laid-out"


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be attempted."""

    row: Row
    run: int
    seed: int
    settings: Settings
    """Its model is open already."""
    folder: Path
    """Of the whole."""

    @property
    def key(self) -> str:
        """See `Attempt.key`."""
        return attempt_key(self.row.instance_id, self.run)

    @property
    def work(self) -> Path:
        """Gone when the attempt is recorded."""
        return self.folder / "work" / self.key

    @property
    def tree(self) -> Path:
        """The work tree."""
        return self.work / "tree"

    @property
    def sessions(self) -> Path:
        """The agent's."""
        return self.work / "sessions"

    @property
    def kept(self) -> Path:
        """Trajectories."""
        return self.folder / "trajectories" / self.key


async def solve(job: Job, ground: Ground, model: Model) -> Attempt:
    """Attempt an instance, or go on with an attempt that was cut short.

    Raises:
        WorkTreeFault, SandboxError, PackageFault, EngineError, AgentError: a fault.
    """
    started, watcher = time.monotonic(), Watcher()
    options = _options(job, model)
    session = _cut_short(job)
    is_resumed = session is not None and await _went_on(
        replace(options, session_id=session, prompt=None), job, ground, model, watcher
    )
    if not is_resumed:
        await asyncio.to_thread(_lay_out, job, ground)
        watcher = Watcher()
        await run_with(options, model, await asyncio.to_thread(ground.box, job.tree), watcher)
    assert watcher.report is not None, "a run that began is reported"
    made = Repair(watcher.report, watcher.tally, time.monotonic() - started)
    stream_s = await asyncio.to_thread(keep, job)
    return _attempt(job, made, stream_s, resumed=is_resumed)


async def _went_on(options: RunOptions, job: Job, ground: Ground, model: Model, watcher: Watcher) -> bool:
    """Whether an attempt that was cut short came to its end; one too damaged for that begins anew."""
    try:
        await run_with(options, model, await asyncio.to_thread(ground.box, job.tree), watcher)
    except (NothingToDo, AgentError):
        return False
    return True


def _cut_short(job: Job) -> str | None:
    """The session of an attempt that another process began: the one that left no other."""
    if not (job.work / _LAID_OUT).exists() or not job.sessions.is_dir():
        return None
    return next((info.id for info in list_sessions(job.sessions) if info.forked_from is None), None)


def _lay_out(job: Job, ground: Ground) -> None:
    remove_tree(job.work)
    job.work.mkdir(parents=True)
    ground.lay_out(job.tree)
    make_single_commit(job.tree)
    (job.work / _LAID_OUT).touch()


def _options(job: Job, model: Model) -> RunOptions:
    statement = job.row.problem_statement
    named = tuple(dict.fromkeys(_TEST_ID.findall(statement)))
    agent = job.settings.agent.model_copy(update={"attended": False, "test_targets": named, "seed": job.seed})
    changed = {
        "agent": agent,
        "tools": ToolsConfig(test_command=TEST_COMMAND),
        "permission_mode": PermissionMode.ACCEPT_EDITS,
    }
    # A small model reads which tests fail, and nothing else.
    prompt = failing_prompt(named) if model.profile.guided and named else issue_prompt(statement)
    return RunOptions(job.tree, job.settings.model_copy(update=changed), prompt, sessions=job.sessions)


def keep(job: Job) -> float:
    """Copy the trajectories; the seconds the engine spent on their turns. Blocks.

    Raises:
        AgentError: one is damaged.
    """
    shutil.rmtree(job.kept, ignore_errors=True)
    job.kept.mkdir(parents=True)
    seconds = 0.0
    for path in sorted(job.sessions.glob("*/trajectory.jsonl")):
        name = path.parent.name
        shutil.copyfile(path, job.kept / f"{name}.jsonl")
        seconds += _stream_s(path)
        try:
            documents = as_atif(SessionFolder.find(job.sessions, name), f"{name}.atif")
        except NothingToExport:
            continue
        for file, text in documents.items():
            (job.kept / file).write_text(text, encoding="utf-8")
    return seconds


def _stream_s(path: Path) -> float:
    turns = (entry.event for entry in trajectory.read(path))
    usages = [turn.usage for turn in turns if isinstance(turn, trajectory.AssistantTurn) and turn.usage]
    return sum(usage.prefill_s + usage.decode_s for usage in usages)


def _attempt(job: Job, made: Repair, stream_s: float, *, resumed: bool) -> Attempt:
    report: RunReport = made.report
    return Attempt(
        instance_id=job.row.instance_id,
        run=job.run,
        seed=job.seed,
        model_patch=report.diff,
        exit_status=STATUSES.get(report.status, str(report.status)),
        reason=report.reason,
        candidates=max(1, len(report.candidates)),
        winner=report.winner,
        turns=report.turns,
        calls=made.calls,
        malformed_calls=made.malformed_calls,
        test_runs=report.test_runs,
        generated_tokens=report.generated_tokens,
        prompt_tokens=report.prompt_tokens,
        reused_tokens=report.reused_tokens,
        seconds=made.seconds,
        stream_s=stream_s,
        resumed=resumed,
    )
