"""All attempts, side by side, with one engine and so one store of prefixes.

    rows x runs ─► queue ─► workers: files, agent, tests ─► records.jsonl ─► preds.jsonl, preds.json, statuses

What is recorded is not done again; what a killed process had begun is gone on with.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from kodkod_agent.errors import AgentError
from kodkod_app.bootstrap import Model
from kodkod_app.first_fault import first_fault
from kodkod_app.python_environment import EnvironmentFault
from kodkod_app.repair_eval.packages import PackageFault
from kodkod_app.settings import Settings
from kodkod_app.swebench.grounds import EnvironmentMissing, Grounds
from kodkod_app.swebench.predictions import write_predictions
from kodkod_app.swebench.records import Attempt, Attempts, attempt_key
from kodkod_app.swebench.rows import Row
from kodkod_app.swebench.solving import Job, keep, solve
from kodkod_app.swebench.work_tree import WorkTreeFault
from kodkod_engine.api import Engine
from kodkod_engine.errors import EngineClosed, EngineError
from kodkod_sandbox.errors import SandboxError
from kodkod_sandbox.removal import remove_tree

FAULTS = (
    EnvironmentMissing,
    EnvironmentFault,
    PackageFault,
    WorkTreeFault,
    SandboxError,
    AgentError,
    EngineError,
    OSError,
)
"""Those of one attempt; the others go on. That the engine is gone ends all."""
_REWRITTEN_EVERY_S = 5.0
_LOOKED_AT_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What is wanted."""

    rows: Sequence[Row]
    runs: int
    workers: int
    settings: Settings
    grounds: Grounds
    folder: Path
    name: str
    """Of the model, in the predictions."""
    redo: bool = False
    redo_faults: bool = False

    def jobs(self, done: Attempts) -> list[Job]:
        """What is left to do, the first run of all instances before the second."""
        return [
            Job(row, run, self.seed(run), self.settings, self.folder)
            for run in range(1, self.runs + 1)
            for row in self.rows
            if self._is_wanted(done.get(attempt_key(row.instance_id, run)))
        ]

    def seed(self, run: int) -> int:
        """Of a run: different for each, and the same whenever it is done."""
        return self.settings.agent.seed + run - 1

    def _is_wanted(self, attempt: Attempt | None) -> bool:
        return attempt is None or self.redo or (self.redo_faults and attempt.is_fault)


class BusyMeter:
    """Seconds in which an engine has worked, by looking often, from a thread: the loop itself may be held up."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seconds = 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def take(self) -> float:
        """What came together since the last time."""
        taken, self._seconds = self._seconds, 0.0
        return taken

    def _look(self) -> None:
        looked = time.monotonic()
        while not self._is_over.wait(_LOOKED_AT_EVERY_S):
            now = time.monotonic()
            self._seconds += (now - looked) * bool(self._engine.stats().running)
            looked = now

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


@dataclass(slots=True)
class Runner:
    """One invocation."""

    plan: RunPlan
    model: Model
    attempts: Attempts
    tell: Callable[[str], None]
    _started: float = field(default_factory=time.monotonic)
    _done: int = 0
    _total: int = 0
    _written: float = 0.0

    async def run(self) -> None:
        """Attempt all that is left.

        Raises:
            EngineClosed: the engine is gone; what was recorded stays.
        """
        jobs = deque(self.plan.jobs(self.attempts))
        self._total = len(jobs)
        if skipped := len(self.plan.rows) * self.plan.runs - len(jobs):
            self.tell(f"{skipped} attempts are recorded already, {len(jobs)} are left")
        self._clear(jobs)
        with BusyMeter(self.model.engine) as meter:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(self.plan.workers, len(jobs))):
                        group.create_task(self._work(jobs, meter))
            except* EngineClosed as faults:
                raise first_fault(faults) from None
            finally:
                self._write_predictions()

    def _clear(self, jobs: Collection[Job]) -> None:
        """Remove the trees of attempts that are recorded, which a kill right then leaves; with `redo`, all of them."""
        to_do = set() if self.plan.redo else {job.work for job in jobs}
        for folder in (self.plan.folder / "work").glob("*"):
            if folder not in to_do:
                remove_tree(folder)

    async def _work(self, jobs: deque[Job], meter: BusyMeter) -> None:
        while jobs:
            job = jobs.popleft()
            attempt = await self._attempt(job)
            device = self.model.config.device
            self.attempts.add(attempt.model_copy(update={"busy_s": meter.take(), "device": device}))
            await asyncio.to_thread(remove_tree, job.work)
            self._done += 1
            self.tell(self._told(attempt))
            if time.monotonic() - self._written > _REWRITTEN_EVERY_S:
                self._write_predictions()

    async def _attempt(self, job: Job) -> Attempt:
        started = time.monotonic()
        try:
            ground = await asyncio.to_thread(self.plan.grounds.of, job.row)
            return await solve(job, ground, self.model)
        except EngineClosed:
            raise
        except FAULTS as fault:
            with suppress(AgentError, OSError):
                await asyncio.to_thread(keep, job)
            return Attempt(
                instance_id=job.row.instance_id,
                run=job.run,
                seed=job.seed,
                model_patch="",
                exit_status=type(fault).__name__,
                reason=" ".join(str(fault).split()),
                is_fault=True,
                seconds=time.monotonic() - started,
            )

    def _write_predictions(self) -> None:
        for run in self.attempts.runs:
            write_predictions(self.attempts, self.plan.folder, run, self.plan.name)
        self._written = time.monotonic()

    def _told(self, attempt: Attempt) -> str:
        elapsed_s = time.monotonic() - self._started
        left_s = elapsed_s / self._done * (self._total - self._done)
        why = f" ({attempt.reason})" if attempt.is_fault else ""
        change = f"{len(attempt.model_patch.splitlines())} lines of patch" if attempt.model_patch else "no patch"
        return (
            f"{self._done} of {self._total}  {attempt.key}: {attempt.exit_status}{why}, {change}, "
            f"{attempt.seconds:.1f} s; {_duration(left_s)} left"
        )


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
