"""The whole evaluation: packages made ready, faults planted, each given to the agent and to the controls, side by side.

    packages ─► faults (a queue) ─► workers: agent, judged by the tests ─► controls ─► records.jsonl ─► report

A fault whose record is there already is passed over, so an evaluation that was cut short goes on where it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kodkod_app.bootstrap import Model
from kodkod_app.repair_eval.agent_run import Repair, repair
from kodkod_app.repair_eval.bench import Bench, commit_all, open_bench
from kodkod_app.repair_eval.controls import blind_search, no_change
from kodkod_app.repair_eval.instances import Instance, measure, plant_faults
from kodkod_app.repair_eval.packages import Package, PackageSpec, make_ready
from kodkod_app.repair_eval.records import AgentResult, FaultRecord, Records
from kodkod_app.settings import Settings
from kodkod_sandbox.choose import SandboxKind

_QUEUE = 4
"""Faults that wait for a worker."""


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What is wanted."""

    packages: tuple[PackageSpec, ...]
    faults: int
    """In all, shared out evenly."""
    seed: int
    workers: int
    settings: Settings
    folder: Path

    def share(self, number: int) -> int:
        """Faults of one package."""
        whole, rest = divmod(self.faults, len(self.packages))
        return whole + (number < rest)

    @property
    def sandbox(self) -> SandboxKind:
        """Of every box."""
        return self.settings.sandbox


Tell = Callable[[str], None]
Waiting = asyncio.Queue[tuple[Package, Instance] | None]


@dataclass(slots=True)
class Evaluation:
    """One run of it."""

    options: EvaluationOptions
    model: Model
    records: Records
    tell: Tell
    _started: float = field(default_factory=time.monotonic)
    _done: int = 0

    async def run(self) -> None:
        """To the end.

        Raises:
            EngineError, SandboxError, PackageFault: a fault; what was recorded stays.
        """
        waiting: Waiting = asyncio.Queue(_QUEUE)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._plant_all(waiting))
            for _ in range(self.options.workers):
                group.create_task(self._work(waiting))

    async def _plant_all(self, waiting: Waiting) -> None:
        for number, spec in enumerate(self.options.packages):
            await self._plant(spec, self.options.share(number), waiting)
        for _ in range(self.options.workers):
            await waiting.put(None)

    async def _plant(self, spec: PackageSpec, count: int, waiting: Waiting) -> None:
        if count == 0:
            return
        self.tell(f"{spec.pinned}: making it ready")
        package = await asyncio.to_thread(make_ready, spec)
        async with open_bench(package, self.options.sandbox) as bench:
            baseline = await measure(bench)
            if baseline is None:
                self.tell(f"{spec.pinned}: its tests cannot be used here; left out")
                return
            found = 0
            async for instance in plant_faults(bench, baseline, self.options.seed, count):
                found += 1
                if instance.fault.key not in self.records:
                    await waiting.put((package, instance))
            self.tell(f"{spec.pinned}: {found} of {count} faults, {len(baseline.failed)} tests fail without any")

    async def _work(self, waiting: Waiting) -> None:
        while (taken := await waiting.get()) is not None:
            record = await self._evaluate(*taken)
            self.records.add(record)
            self._done += 1
            self.tell(self._told(record))

    async def _evaluate(self, package: Package, instance: Instance) -> FaultRecord:
        options = self.options
        async with open_bench(package, options.sandbox) as bench:
            bench.write(instance.fault.path, instance.broken)
            await asyncio.to_thread(commit_all, bench.tree)
            unchanged = await no_change(bench, instance)
            budget = options.settings.candidates.count
            blind = await blind_search(bench, instance, budget, options.seed)
            keep = options.folder / "trajectories" / instance.fault.key.replace("/", "-")
            made = await repair(bench, instance, self.model, options.settings, keep, options.sandbox)
            agent = await _judged(bench, instance, made)
        return FaultRecord(fault=instance.fault, agent=agent, no_change=unchanged, blind=blind)

    def _told(self, record: FaultRecord) -> str:
        total = max(self.options.faults, len(self.records))
        seconds = time.monotonic() - self._started
        left_s = seconds / self._done * max(0, total - len(self.records))
        resolved = sum(one.agent.resolved for one in self.records)
        what = "resolved" if record.agent.resolved else "not resolved"
        return (
            f"{len(self.records)} of {total}  {record.fault.key} {record.fault.kind}: {what}, "
            f"{record.agent.seconds:.1f} s  so far {resolved}, {left_s / 60:.0f} min left"
        )


async def _judged(bench: Bench, instance: Instance, made: Repair) -> AgentResult:
    """By the same tests as the blind search."""
    report = made.report
    outcome = await bench.run((instance.test_file,))
    resolved = outcome.mends(instance.fault.failing_tests, instance.failed_before)
    return AgentResult(
        resolved=resolved,
        resolved_first=resolved and report.winner is None,
        status=report.status,
        reason=report.reason,
        ended_by_itself=made.ended_by_itself,
        candidates=max(1, len(report.candidates)),
        winner=report.winner,
        tried_edits=made.tried_edits,
        test_runs=report.test_runs,
        calls=made.calls,
        malformed_calls=made.malformed_calls,
        generated_tokens=report.generated_tokens,
        prompt_tokens=report.prompt_tokens,
        reused_tokens=report.reused_tokens,
        seconds=made.seconds,
        diff=report.diff,
    )


def chosen_packages(named: Sequence[str], known: Sequence[PackageSpec]) -> tuple[PackageSpec, ...]:
    """Those that were named, or all that are known."""
    return tuple(PackageSpec.parse(name) for name in dict.fromkeys(named)) or tuple(known)
