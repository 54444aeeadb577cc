"""What the records come to: report.json for programs, report.md and plots for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from kodkod_app.repair_eval.records import FaultRecord
from kodkod_app.statistics import Share, median

Entry = dict[str, Any]
Test = Callable[[FaultRecord], bool]

_COLUMNS: dict[str, Test] = {
    "agent": lambda record: record.agent.resolved,
    "agent_first": lambda record: record.agent.resolved_first,
    "blind": lambda record: record.blind.resolved,
    "no_change": lambda record: record.no_change.resolved,
}


def summary(records: Sequence[FaultRecord], setting: Entry) -> Entry:
    """All figures.

    Args:
        records: of every fault.
        setting: what was asked for, and where it ran; plain values.
    """
    return {
        "setting": setting,
        "faults": len(records),
        "packages": len({record.fault.package for record in records}),
        "resolved": _shares(records),
        "times_blind": _ratio(records),
        "by_kind": _grouped(records, lambda record: record.fault.kind),
        "by_package": _grouped(records, lambda record: record.fault.package),
        "by_tries": _by_tries(records),
        "calls": {
            "total": sum(record.agent.calls for record in records),
            "malformed": sum(record.agent.malformed_calls for record in records),
        },
        "ended_by_themselves": _share(records, lambda record: record.agent.ended_by_itself),
        "cost": _cost(records),
    }


def _shares(records: Sequence[FaultRecord]) -> Entry:
    return {name: _share(records, test) for name, test in _COLUMNS.items()}


def _share(records: Sequence[FaultRecord], test: Test) -> Entry:
    share = Share(sum(map(test, records)), len(records))
    low, high = share.interval
    return {"count": share.count, "total": share.total, "value": share.value, "low": low, "high": high}


def _ratio(records: Sequence[FaultRecord]) -> float | None:
    """How many times what the blind search resolves; None where that is nothing."""
    blind = sum(record.blind.resolved for record in records)
    return sum(record.agent.resolved for record in records) / blind if blind else None


def _grouped(records: Sequence[FaultRecord], key: Callable[[FaultRecord], str]) -> Entry:
    names = sorted({key(record) for record in records})
    return {name: _shares([record for record in records if key(record) == name]) for name in names}


def _by_tries(records: Sequence[FaultRecord]) -> list[int]:
    """How many faults were resolved with so many candidates or fewer: entry 0 is that of one."""
    most = max((record.agent.candidates for record in records), default=0)
    return [
        sum(record.agent.resolved and (record.agent.winner or 1) <= number for record in records)
        for number in range(1, most + 1)
    ]


def _cost(records: Sequence[FaultRecord]) -> Entry:
    agents = [record.agent for record in records]
    prompt = sum(agent.prompt_tokens for agent in agents)
    return {
        "test_runs": sum(agent.test_runs for agent in agents),
        "tried_edits": sum(agent.tried_edits for agent in agents),
        "blind_tried_edits": sum(record.blind.tried_edits for record in records),
        "median_seconds": median([agent.seconds for agent in agents]),
        "total_seconds": sum(agent.seconds for agent in agents),
        "generated_tokens": sum(agent.generated_tokens for agent in agents),
        "prompt_tokens": prompt,
        "reused_share": sum(agent.reused_tokens for agent in agents) / prompt if prompt else 0.0,
    }


def write_reports(records: Iterable[FaultRecord], setting: Entry, folder: Path) -> Entry:
    """Write report.json and report.md; returns the figures."""
    found = summary(list(records), setting)
    (folder / "report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(told(found), encoding="utf-8")
    return found


def told(found: Entry) -> str:
    """The figures for people, as Markdown."""
    setting, cost = found["setting"], found["cost"]
    ratio = found["times_blind"]
    lines = [
        f"# Repair of {found['faults']} planted faults in {found['packages']} packages",
        "",
        ", ".join(f"{name} {value}" for name, value in setting.items() if value not in (None, "")),
        "",
        "A fault is resolved when its failing tests pass and no other test of their files fails that did not before.",
        "The blind search tries the plausible edits that the model chooses among, in random order,",
        "as many as there were candidates; it counts as resolved when any of them does.",
        "",
        "| | resolved, with Wilson's 95 % interval |",
        "|---|---|",
        f"| with {setting.get('candidates')} candidates | {_told_share(found['resolved']['agent'])} |",
        f"| with the first alone | {_told_share(found['resolved']['agent_first'])} |",
        f"| blind search | {_told_share(found['resolved']['blind'])} |",
        f"| no change | {_told_share(found['resolved']['no_change'])} |",
        "",
        f"Against the blind search: {'it resolved none' if ratio is None else f'{ratio:.2f} times as many'}.",
        f"Calls: {found['calls']['total']}, malformed: {found['calls']['malformed']}. "
        f"Runs that ended by themselves: {_told_share(found['ended_by_themselves'])}.",
        f"Test runs: {cost['test_runs']}; edits tested: {cost['tried_edits']} (blind: {cost['blind_tried_edits']}). "
        f"Seconds per fault: {cost['median_seconds']:.1f} (median). "
        f"Prompt tokens reused: {100 * cost['reused_share']:.0f} %.",
        "",
        *_table("class of fault", found["by_kind"]),
        "",
        *_table("package", found["by_package"]),
        "",
    ]
    return "\n".join(lines)


def _table(title: str, groups: Entry) -> list[str]:
    lines = [f"| {title} | candidates | first alone | blind |", "|---|---|---|---|"]
    for name, shares in groups.items():
        cells = (_told_share(shares[column]) for column in ("agent", "agent_first", "blind"))
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return lines


def _told_share(entry: Entry) -> str:
    return str(Share(entry["count"], entry["total"]))
