"""The whole evaluation: packages made ready, faults planted, each given to the agent and to the controls.

    package ─► workshop ─► faults ─► controls ─► agent, in a box ─► judged in the workshop ─► records.jsonl ─► report

Packages take turns, so that an evaluation that was cut short is one of all of them. A fault whose record is there
already is passed over, so it goes on where it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from kodkod_app.bootstrap import Model
from kodkod_app.first_fault import first_fault
from kodkod_app.nano.broken import Instance, broken_instances
from kodkod_app.nano.packages import Package, Role, known_packages
from kodkod_app.nano.ranking.ranker import plausible_for
from kodkod_app.nano.releases import release
from kodkod_app.nano.spans import Edit
from kodkod_app.nano.workshop import Workshop, prepare
from kodkod_app.repair_eval.agent_run import Repair, repair
from kodkod_app.repair_eval.broken_tree import open_broken_tree
from kodkod_app.repair_eval.controls import blind_search, mends, no_change
from kodkod_app.repair_eval.records import AgentResult, ControlResult, FaultRecord, PlantedFault, Records
from kodkod_app.settings import Settings
from kodkod_sandbox.choose import SandboxKind


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """What is wanted."""

    packages: tuple[str, ...]
    """NAME==VERSION each."""
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


@dataclass(frozen=True, slots=True)
class _Shop:
    """A package's workshop; it does one thing at a time."""

    package: Package
    workshop: Workshop
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class Evaluation:
    """One run of it."""

    options: EvaluationOptions
    model: Model
    records: Records
    tell: Tell
    _started: float = field(default_factory=time.monotonic)
    _done: int = 0
    _planting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    _workers: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._workers = asyncio.Semaphore(self.options.workers)

    async def run(self) -> None:
        """To the end.

        Raises:
            EngineError, SandboxError, PackageFault, RunnerFault: a fault, the first of them; what was recorded stays.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for number, pinned in enumerate(self.options.packages):
                    group.create_task(self._package(pinned, self.options.share(number)))
        except BaseExceptionGroup as faults:
            raise first_fault(faults) from faults

    async def _package(self, pinned: str, count: int) -> None:
        if count == 0:
            return
        async with self._planting:
            self.tell(f"{pinned}: making it ready")
            package = await asyncio.to_thread(release, pinned)
            workshop = await asyncio.to_thread(prepare, package)
        with workshop:
            shop = _Shop(package, workshop)
            found = await self._all_faults(shop, count)
            self.tell(f"{pinned}: {found} of {count} faults")

    async def _all_faults(self, shop: _Shop, count: int) -> int:
        """One after another, each when a worker is free; returns how many there are."""
        pinned, found = shop.package.spec.pinned, 0
        instances = broken_instances(shop.workshop, Random(f"{self.options.seed} {pinned}"), count)
        async with asyncio.TaskGroup() as group:
            while (instance := await self._planted(shop, instances)) is not None:
                key = f"{pinned}/{self.options.seed}/{found}"
                found += 1
                if key not in self.records:
                    await self._workers.acquire()
                    group.create_task(self._worked_on(shop, key, instance))
        return found

    async def _planted(self, shop: _Shop, instances: Iterator[Instance]) -> Instance | None:
        async with self._planting, shop.lock:
            return await asyncio.to_thread(next, instances, None)

    async def _worked_on(self, shop: _Shop, key: str, instance: Instance) -> None:
        try:
            record = await self._evaluate(shop, key, instance)
        finally:
            self._workers.release()
        self.records.add(record)
        self._done += 1
        self.tell(self._told(record))

    async def _evaluate(self, shop: _Shop, key: str, instance: Instance) -> FaultRecord:
        options = self.options
        async with shop.lock:
            unchanged, blind = await asyncio.to_thread(self._controls, shop.workshop, key, instance)
        with open_broken_tree(shop.package, instance) as bench:
            keep = options.folder / "trajectories" / key.replace("/", "-")
            made = await repair(bench, instance.failing_tests, self.model, options.settings, keep, options.sandbox)
            changes = bench.changes()
        async with shop.lock:
            resolved = bool(changes) and await asyncio.to_thread(mends, shop.workshop, instance, changes)
        agent = _result(made, resolved=resolved)
        return FaultRecord(fault=_planted_fault(key, instance), agent=agent, no_change=unchanged, blind=blind)

    def _controls(self, workshop: Workshop, key: str, instance: Instance) -> tuple[ControlResult, ControlResult]:
        budget = self.options.settings.candidates.count
        blind = blind_search(workshop, instance, _edits(workshop, instance), budget, f"{key} blind")
        return no_change(workshop, instance), blind

    def _told(self, record: FaultRecord) -> str:
        total = max(self.options.faults, len(self.records))
        seconds = time.monotonic() - self._started
        left_s = seconds / self._done * max(0, total - len(self.records))
        resolved = sum(one.agent.resolved for one in self.records)
        blind = sum(one.blind.resolved for one in self.records)
        what = "resolved" if record.agent.resolved else "not resolved"
        return (
            f"{len(self.records)} of {total}  {record.fault.key} {record.fault.kind}: {what}, "
            f"{record.agent.seconds:.1f} s  so far {resolved}, blind {blind}, {left_s / 60:.0f} min left"
        )


def _edits(workshop: Workshop, instance: Instance) -> list[tuple[str, Edit]]:
    """What the agent has to choose from: plausible edits of the suspects."""
    found = instance.suspects(workshop)
    texts = {one.path: instance.broken if one.path == instance.path else workshop.read(one.path) for one in found}
    return [(path, edit.edit) for path, edit in plausible_for(found, texts)]


def _planted_fault(key: str, instance: Instance) -> PlantedFault:
    edit = instance.fault.edit
    return PlantedFault(
        key=key, package=instance.package, kind=instance.fault.kind, path=instance.path, line=edit.line,
        old=edit.old, new=edit.new, failing_tests=instance.failing_tests,
    )  # fmt: skip


def _result(made: Repair, *, resolved: bool) -> AgentResult:
    """As the workshop judged it."""
    report = made.report
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


def pinned_packages(named: Sequence[str]) -> tuple[str, ...]:
    """Those that were named, or all that nothing was learnt from."""
    return tuple(dict.fromkeys(named)) or tuple(spec.pinned for spec in known_packages(Role.HELD_OUT))
