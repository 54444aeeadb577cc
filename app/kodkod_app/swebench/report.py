"""What a run came to: report.json for programs, report.md and report.png for people.

Shares are of all instances of the run: a fault, an empty patch and an attempt that is missing count as not resolved.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kodkod_app.statistics import Paired, Share, Spread, Trials, largest_k, median, pass_at_k, pass_hat_k
from kodkod_app.swebench.folder import Asked, read_asked
from kodkod_app.swebench.records import Attempt, Attempts, attempt_key
from kodkod_app.swebench.report_text import told
from kodkod_app.swebench.verdicts import Verdict, Verdicts

Entry = dict[str, Any]
_CONTROLS = ("gold", "empty")

__all__ = ["told", "write_report"]


def write_report(folder: Path, other: Path | None = None) -> Entry:
    """Write all three files into `folder`; the figures. The picture is left out where matplotlib is not installed.

    Raises:
        FolderFault: one of them is no run's folder.
        RecordsDamaged: its records cannot be read.
    """
    found = summary(Run.read(folder))
    if other is not None:
        found["compared"] = compared(Run.read(folder), Run.read(other)) | {"with": str(other)}
    (folder / "report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(told(found), encoding="utf-8")
    from kodkod_app.swebench.plot import write_plot

    write_plot(found, folder / "report.png")
    return found


class Run:
    """A run's folder, read."""

    def __init__(self, asked: Asked, attempts: Sequence[Attempt], verdicts: Verdicts) -> None:
        self.asked = asked
        self.attempts = attempts
        self._patches = {attempt.key: attempt.model_patch for attempt in attempts}
        self.verdicts = verdicts
        self.runs = sorted({attempt.run for attempt in attempts}) or [1]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read it; see `write_report`."""
        asked = read_asked(folder)
        wanted = set(asked.instances)
        return cls(asked, [one for one in Attempts(folder) if one.instance_id in wanted], Verdicts(folder))

    def verdict(self, run: int, instance_id: str) -> Verdict | None:
        """On an attempt; None where it was not graded, nor where another patch was."""
        patch = self._patches.get(attempt_key(instance_id, run), "")
        return self.verdicts.on_patch(f"run-{run}", instance_id, patch)

    def is_resolved(self, run: int, instance_id: str) -> bool:
        """As far as it was graded."""
        verdict = self.verdict(run, instance_id)
        return verdict is not None and verdict.is_resolved

    def share(self, run: int) -> Share:
        """Resolved of all instances in one run."""
        names = self.asked.instances
        return Share(sum(self.is_resolved(run, name) for name in names), len(names))

    @property
    def trials(self) -> list[Trials]:
        """Of each instance."""
        return [
            Trials(len(self.runs), sum(self.is_resolved(run, name) for run in self.runs))
            for name in self.asked.instances
        ]


def summary(run: Run) -> Entry:
    """All figures of a run."""
    graded = sum(run.verdict(number, name) is not None for number in run.runs for name in run.asked.instances)
    return {
        "setting": run.asked.model_dump(exclude={"instances"}),
        "instances": len(run.asked.instances),
        "runs": len(run.runs),
        "attempted": len(run.attempts),
        "graded": graded,
        "resolved_by_run": {str(number): _share(run.share(number)) for number in run.runs},
        "resolved_mean": _spread(Spread.of([run.share(number).value for number in run.runs])),
        "by_k": _by_k(run.trials),
        "controls": _controls(run),
        "harness": sorted({f"swebench {one.harness}, {one.place}" for one in run.verdicts}),
        "places_disagree_on": run.verdicts.differing,
        "outcomes": _outcomes(run),
        "exit_statuses": dict(Counter(attempt.exit_status for attempt in run.attempts).most_common()),
        "faults": sum(attempt.is_fault for attempt in run.attempts),
        "cost": _cost(run.attempts),
        "by_instance": _by_instance(run),
    }


def compared(first: Run, second: Run) -> Entry:
    """Two runs on the instances they share, by the first attempt at each."""
    shared = sorted(set(first.asked.instances) & set(second.asked.instances))
    outcomes = [(first.is_resolved(first.runs[0], name), second.is_resolved(second.runs[0], name)) for name in shared]
    pairs = Paired.of(outcomes)
    return {
        "names": [first.asked.name, second.asked.name],
        "shared": len(shared),
        "first": _share(Share(sum(one for one, _ in outcomes), len(shared))),
        "second": _share(Share(sum(two for _, two in outcomes), len(shared))),
        "both": pairs.both,
        "neither": pairs.neither,
        "only_first": pairs.only_first,
        "only_second": pairs.only_second,
        "p_value": pairs.p_value,
    }


def _share(share: Share) -> Entry:
    low, high = share.interval
    return {"count": share.count, "total": share.total, "value": share.value, "low": low, "high": high}


def _spread(spread: Spread) -> Entry:
    return {"runs": spread.count, "mean": spread.mean, "deviation": spread.deviation}


def _by_k(trials: Sequence[Trials]) -> list[Entry]:
    """pass@k and pass^k for each k that all instances have trials for."""
    numbers = range(1, largest_k(trials) + 1)
    return [{"k": k, "pass_at_k": pass_at_k(trials, k), "pass_hat_k": pass_hat_k(trials, k)} for k in numbers]


def _controls(run: Run) -> Entry:
    found: Entry = {}
    for name in _CONTROLS:
        verdicts = [run.verdicts.best(name, instance_id) for instance_id in run.asked.instances]
        known = [verdict for verdict in verdicts if verdict is not None]
        if known:
            found[name] = _share(Share(sum(verdict.is_resolved for verdict in known), len(known)))
    return found


def _outcomes(run: Run) -> Entry:
    found = Counter(
        verdict.outcome.value if (verdict := run.verdict(number, name)) else "not graded"
        for number in run.runs
        for name in run.asked.instances
    )
    infra = sum(
        verdict.infra_failure
        for number in run.runs
        for name in run.asked.instances
        if (verdict := run.verdict(number, name))
    )
    return {**dict(found.most_common()), "with likely infrastructure failures": infra}


def _cost(attempts: Sequence[Attempt]) -> Entry:
    prompt = sum(attempt.prompt_tokens for attempt in attempts)
    seconds = [attempt.seconds for attempt in attempts]
    busy_s = sum(attempt.busy_s for attempt in attempts)
    on_gpu = [attempt.busy_s for attempt in attempts if attempt.device.startswith("cuda")]
    return {
        "prompt_tokens": prompt,
        "reused_tokens": sum(attempt.reused_tokens for attempt in attempts),
        "reused_share": sum(attempt.reused_tokens for attempt in attempts) / prompt if prompt else 0.0,
        "generated_tokens": sum(attempt.generated_tokens for attempt in attempts),
        "turns": sum(attempt.turns for attempt in attempts),
        "calls": sum(attempt.calls for attempt in attempts),
        "malformed_calls": sum(attempt.malformed_calls for attempt in attempts),
        "test_runs": sum(attempt.test_runs for attempt in attempts),
        "attempt_seconds": sum(seconds),
        "median_attempt_seconds": median(seconds),
        "engine_seconds": busy_s,
        "gpu_seconds": sum(on_gpu),
    }


def _by_instance(run: Run) -> Entry:
    statuses = {attempt.key: attempt.exit_status for attempt in run.attempts}
    return {
        name: {
            "resolved": sum(run.is_resolved(number, name) for number in run.runs),
            "exit_statuses": [statuses.get(f"{name}.run-{number}", "missing") for number in run.runs],
        }
        for name in run.asked.instances
    }
