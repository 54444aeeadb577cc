"""The same planted faults repaired in several ways, fault by fault in turns, so that seconds can be compared.

    python app/bench/repair_arms.py guided -o DIR [--faults 40]     speculation and precision, nano as it comes along
    python app/bench/repair_arms.py free -o DIR [--faults 8]        constraints and speculation, nano left to itself

The faults are those of `kodkod eval repair` with the same seed; packages take turns, so that what was cut short is of
all of them. `guided`: nano chooses among plausible edits, a constraint of its own that cannot be taken off; with and
without drafts, and with its weights in FP8, 8 and 4 bits. `free`: nano without guidance writes its calls token by
token, held to what is declared and to the files, or not held; one candidate, and a limit on time and turns, for it
mends next to nothing so. What is recorded is gone on with. The record is written to `app/bench/results`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from pydantic import BaseModel

from kodkod_agent.config import AgentConfig, CandidatesConfig
from kodkod_app.bootstrap import Model, open_model
from kodkod_app.json_lines import JsonLines
from kodkod_app.nano.broken import Instance, broken_instances
from kodkod_app.nano.releases import release
from kodkod_app.nano.workshop import Workshop, prepare
from kodkod_app.repair_eval.agent_run import repair
from kodkod_app.repair_eval.broken_tree import open_broken_tree
from kodkod_app.repair_eval.controls import mends
from kodkod_app.settings import Settings
from kodkod_app.statistics import Share, median
from kodkod_engine.api import Speculation
from kodkod_engine.config import EngineConfig
from kodkod_sandbox.choose import SandboxKind

RESULTS = Path(__file__).parent / "results"
_TICK_S, _STOPPED_S = 0.1, 2.0
PACKAGES = ("cachetools==5.3.3", "parse==1.20.1", "inflection==0.5.1", "semver==3.0.2")
"""Those of the evaluation whose tests are quickest."""
BRIEF = {"max_turns": 10, "max_turn_tokens": 256}
"""Of a model that is left to itself, which else goes on until its context is full."""


@dataclass(frozen=True)
class Arm:
    """One way of doing it."""

    name: str
    engine: EngineConfig = field(default_factory=EngineConfig)
    agent: dict[str, Any] = field(default_factory=dict)
    is_guided: bool = True

    def open(self) -> Model:
        """The bundled model, as this arm has it."""
        model = open_model(None, self.engine)
        if self.is_guided:
            return model
        return replace(
            model, profile=model.profile.model_copy(update={"guided": False, "searched": False}), ranker=None
        )


def arms(kind: str, limit_s: float, tries: int) -> list[Arm]:
    """Of one kind of comparison."""
    plain = EngineConfig(speculation=Speculation.NONE)
    if kind == "guided":
        few = {"max_tries": tries}
        packed = [Arm(name, EngineConfig(precision=name), few) for name in ("fp8", "int8", "int4")]
        return [Arm("bf16", agent=few), Arm("bf16, no speculation", plain, few), *packed]
    brief = {**BRIEF, "timeout_s": limit_s}
    loose = {**brief, "constraints": False}
    return [
        Arm("held", EngineConfig(), brief, is_guided=False),
        Arm("held, no speculation", plain, brief, is_guided=False),
        Arm("loose", EngineConfig(), loose, is_guided=False),
        Arm("loose, no speculation", plain, loose, is_guided=False),
    ]


def in_turns(shops: Sequence[Workshop], seed: int, faults: int) -> Iterator[tuple[Workshop, str, Instance]]:
    """So many faults with their keys, one of each package and again."""
    names = [shop.package.spec.pinned for shop in shops]
    each = -(-faults // len(shops))
    planted = [
        enumerate(broken_instances(shop, Random(f"{seed} {name}"), each))
        for shop, name in zip(shops, names, strict=True)
    ]
    for number in range(faults):
        place = number % len(shops)
        found = next(planted[place], None)
        if found is not None:
            yield shops[place], f"{names[place]}/{seed}/{found[0]}", found[1]


class StandStill:
    """Seconds for which this process did not run: somebody stopped it, to measure something else alone."""

    def __init__(self) -> None:
        self.seconds = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            before = time.monotonic()
            time.sleep(_TICK_S)
            late_s = time.monotonic() - before - _TICK_S
            self.seconds += late_s if late_s > _STOPPED_S else 0.0


class ArmRecord(BaseModel):
    """What one arm made of one fault."""

    key: str
    """As in the records of `kodkod eval repair`."""
    arm: str
    kind: str
    resolved: bool
    resolved_first: bool
    status: str
    reason: str
    candidates: int
    turns: int
    calls: int
    malformed_calls: int
    failed_calls: int
    """Of the run itself, without other candidates."""
    turns_without_a_call: int
    constrained_tokens: int
    doubted_tokens: int
    generated_tokens: int
    """By the engine, for whatever purpose."""
    steps: int
    """Of the engine, those of prompts among them."""
    seconds: float
    """Without those for which the process was stopped."""
    stopped_s: float = 0.0


@dataclass
class Comparison:
    """All arms on all faults."""

    arms: Sequence[Arm]
    candidates: int
    sandbox: SandboxKind
    folder: Path
    seed: int
    models: dict[str, Model] = field(default_factory=dict)
    stopped: StandStill = field(default_factory=StandStill)

    def __post_init__(self) -> None:
        self.records = JsonLines(self.folder / "records.jsonl", ArmRecord, lambda one: f"{one.key} {one.arm}")

    def run(self, packages: Sequence[str], faults: int) -> None:
        """One fault after another, of each package in turn."""
        self.models = {arm.name: arm.open() for arm in self.arms}
        try:
            asyncio.run(self._run(packages, faults))
        finally:
            for model in self.models.values():
                model.engine.close()

    async def _run(self, packages: Sequence[str], faults: int) -> None:
        done, total = 0, faults * len(self.arms)
        with ExitStack() as stack:
            shops = [stack.enter_context(prepare(release(pinned))) for pinned in packages]
            for number, (workshop, key, instance) in enumerate(in_turns(shops, self.seed, faults)):
                # Each arm is the first as often as any other: what is warm then must not help one alone.
                first = number % len(self.arms)
                for arm in [*self.arms[first:], *self.arms[:first]]:
                    if f"{key} {arm.name}" not in self.records:
                        self.records.add(await self._one(workshop, instance, key, arm))
                    done += 1
                    print(f"{done} of {total}  {told(self.records.get(f'{key} {arm.name}'))}", file=sys.stderr)

    async def _one(self, workshop: Workshop, instance: Instance, key: str, arm: Arm) -> ArmRecord:
        model = self.models[arm.name]
        settings = Settings(
            agent=AgentConfig(**arm.agent), candidates=CandidatesConfig(count=self.candidates, at_once=1)
        )
        before, stopped_s = model.engine.stats(), self.stopped.seconds
        with open_broken_tree(workshop.package, instance) as bench:
            keep = trajectories(self.folder, key, arm.name)
            made = await repair(bench, instance.failing_tests, model, settings, keep, self.sandbox)
            changes = bench.changes()
        after, report = model.engine.stats(), made.report
        stopped_s = self.stopped.seconds - stopped_s
        resolved = bool(changes) and mends(workshop, instance, changes)
        return ArmRecord(
            key=key, arm=arm.name, kind=instance.fault.kind, resolved=resolved,
            resolved_first=resolved and report.winner is None, status=report.status, reason=report.reason,
            candidates=max(1, len(report.candidates)), turns=report.turns, calls=made.calls,
            malformed_calls=made.malformed_calls, failed_calls=made.tally.failed_calls,
            turns_without_a_call=max(0, report.turns - made.tally.calls) if not report.candidates else 0,
            constrained_tokens=report.constrained_tokens, doubted_tokens=report.doubted_tokens,
            generated_tokens=after.generated_tokens - before.generated_tokens, steps=after.steps - before.steps,
            seconds=made.seconds - stopped_s, stopped_s=stopped_s,
        )  # fmt: skip


def trajectories(folder: Path, key: str, arm: str) -> Path:
    """Where those of one repair are kept."""
    return folder / "trajectories" / f"{key} {arm}".replace("/", "-")


def errors(folder: Path) -> Counter[str]:
    """How often calls ended with which error; a call that the token limit cut off is told from a malformed one."""
    found: Counter[str] = Counter()
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)["event"]
            if event["kind"] == "call_finished" and event["error"]:
                was_cut = event["error"] == "malformed_call" and "the call was cut off" in event["for_model"]
                found["cut off by the token limit" if was_cut else event["error"]] += 1
    return found


def told(record: ArmRecord | None) -> str:
    """A line of progress."""
    assert record is not None
    verdict = "resolved" if record.resolved else f"not resolved ({record.reason})"
    return f"{record.key} {record.kind}, {record.arm}: {verdict}, {record.seconds:.1f} s, {record.steps} steps"


def figures(records: Sequence[ArmRecord], names: Sequence[str], folder: Path) -> dict[str, Any]:
    """Of the faults that every arm has done."""
    by_arm = {name: {one.key: one for one in records if one.arm == name} for name in names}
    keys = sorted(set.intersection(*(set(found) for found in by_arm.values())))
    base = by_arm[names[0]]
    return {
        "faults": len(keys),
        "packages": len({key.split("/")[0] for key in keys}),
        "arms": {
            name: {
                **_figures([found[key] for key in keys], [base[key] for key in keys]),
                "errors": sum((errors(trajectories(folder, key, name)) for key in keys), Counter()),
            }
            for name, found in by_arm.items()
        },
    }


def _figures(found: Sequence[ArmRecord], base: Sequence[ArmRecord]) -> dict[str, Any]:
    pairs = list(zip(found, base, strict=True))
    return {
        "resolved": str(Share(sum(one.resolved for one in found), len(found))),
        "resolved_first": str(Share(sum(one.resolved_first for one in found), len(found))),
        "resolved_here_alone": [one.key for one, other in pairs if one.resolved and not other.resolved],
        "resolved_by_the_first_arm_alone": [one.key for one, other in pairs if other.resolved and not one.resolved],
        "turns": sum(one.turns for one in found),
        "calls": sum(one.calls for one in found),
        "failed_calls": sum(one.failed_calls for one in found),
        "turns_without_a_call": sum(one.turns_without_a_call for one in found),
        "constrained_tokens": sum(one.constrained_tokens for one in found),
        "doubted_tokens": sum(one.doubted_tokens for one in found),
        "generated_tokens": sum(one.generated_tokens for one in found),
        "steps": sum(one.steps for one in found),
        "seconds": round(sum(one.seconds for one in found), 1),
        "median_seconds": round(median([one.seconds for one in found]), 2),
        "ended": {status: sum(one.status == status for one in found) for status in sorted({o.status for o in found})},
    }


def circumstances() -> dict[str, Any]:
    """When and where."""
    here = Path(__file__).parent
    name = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": name.stdout.strip(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("guided", "free"))
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the records; gone on with")
    parser.add_argument("--package", action="append", help=f"[default: {', '.join(PACKAGES)}]")
    parser.add_argument("--faults", type=int, help="in all packages together [default: 40, and 8 of `free`]")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--candidates", type=int, help="[default: 8, and 1 of `free`]")
    parser.add_argument("--tries", type=int, default=8, help="edits of a candidate, with `guided`")
    parser.add_argument("--limit-s", type=float, default=300.0, help="of each fault, with `free`; a stop counts")
    parser.add_argument("--sandbox", type=SandboxKind, default=SandboxKind.LANDLOCK)
    parser.add_argument("--report", action="store_true", help="repair nothing; count what is there")
    options = parser.parse_args()
    is_free = options.kind == "free"
    candidates = options.candidates or (1 if is_free else 8)
    compared = arms(options.kind, options.limit_s, options.tries)
    options.output.mkdir(parents=True, exist_ok=True)
    comparison = Comparison(compared, candidates, options.sandbox, options.output.resolve(), options.seed)
    if not options.report:
        comparison.run(options.package or PACKAGES, options.faults or (8 if is_free else 40))
    record = {
        **circumstances(),
        "seed": options.seed,
        "candidates": candidates,
        **({**BRIEF, "limit_s": options.limit_s} if is_free else {"tries": options.tries}),
        **figures(list(comparison.records), [arm.name for arm in compared], comparison.folder),
    }
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{datetime.now(UTC):%Y-%m-%d-%H%M}-repair-{options.kind}.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
