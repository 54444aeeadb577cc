"""What trials came to: report.json for programs, report.md for people, junit.xml for whoever reads test reports."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from kodkod_app.evaluation.records import Trial
from kodkod_app.statistics import Share, Trials, largest_k, pass_at_k, pass_hat_k

Entry = dict[str, Any]
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_reports(trials: Sequence[Trial], setting: Mapping[str, Any], folder: Path) -> Entry:
    """Write all three; the figures."""
    found = summary(trials, setting)
    (folder / "report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(told(found), encoding="utf-8")
    junit(trials).write(folder / "junit.xml", encoding="utf-8", xml_declaration=True)
    return found


def summary(trials: Sequence[Trial], setting: Mapping[str, Any]) -> Entry:
    """All figures. A task's share of passed trials counts once, however often it was tried."""
    return {
        "setting": dict(setting),
        "all": _figures(trials),
        "by_suite": _grouped(trials, lambda trial: trial.suite),
        "by_category": _grouped(trials, lambda trial: f"{trial.suite}: {trial.category or 'other'}"),
        "by_task": {
            name: {"passed": sum(one.passed for one in found), "trials": len(found), "reasons": _reasons(found)}
            for name, found in _groups(trials, lambda trial: f"{trial.suite}/{trial.task}").items()
        },
        "exit_statuses": dict(Counter(trial.exit_status for trial in trials).most_common()),
        "faults": sum(trial.is_fault for trial in trials),
        "calls": sum(trial.calls for trial in trials),
        "malformed_calls": sum(trial.malformed_calls for trial in trials),
        "prompt_tokens": sum(trial.prompt_tokens for trial in trials),
        "reused_tokens": sum(trial.reused_tokens for trial in trials),
        "generated_tokens": sum(trial.generated_tokens for trial in trials),
        "seconds": sum(trial.seconds for trial in trials),
    }


def _figures(trials: Sequence[Trial]) -> Entry:
    by_task = _groups(trials, lambda trial: f"{trial.suite}/{trial.task}").values()
    tasks = [Trials(len(found), sum(one.passed for one in found)) for found in by_task]
    first = [trial for trial in trials if trial.number == 1]
    share = Share(sum(trial.passed for trial in first), len(first))
    low, high = share.interval
    ks = range(1, largest_k(tasks) + 1)
    return {
        "tasks": len(tasks),
        "passed_first": {"count": share.count, "total": share.total, "value": share.value, "low": low, "high": high},
        "by_k": [{"k": k, "pass_at_k": pass_at_k(tasks, k), "pass_hat_k": pass_hat_k(tasks, k)} for k in ks],
    }


def _groups(trials: Sequence[Trial], key: Callable[[Trial], str]) -> dict[str, list[Trial]]:
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        found.setdefault(key(trial), []).append(trial)
    return dict(sorted(found.items()))


def _grouped(trials: Sequence[Trial], key: Callable[[Trial], str]) -> Entry:
    return {name: _figures(found) for name, found in _groups(trials, key).items()}


def _reasons(trials: Sequence[Trial]) -> list[str]:
    return list(dict.fromkeys(reason for trial in trials for reason in trial.reasons))


def told(found: Entry) -> str:
    """The figures for people, as Markdown."""
    setting = found["setting"]
    lines = [
        f"# {setting['agent']} on {found['all']['tasks']} tasks",
        "",
        ", ".join(f"{name} {value}" for name, value in setting.items() if value not in (None, "")),
        "",
        *_table("suite", {**found["by_suite"], "all": found["all"]}),
        "",
        *_table("category", found["by_category"]),
        "",
        f"Calls: {found['calls']}, malformed: {found['malformed_calls']}. Faults: {found['faults']}. "
        f"{found['prompt_tokens']} prompt tokens ({found['reused_tokens']} reused), "
        f"{found['generated_tokens']} generated; {found['seconds']:.0f} s of trials.",
        "",
        "| task | passed | why not |",
        "|---|---|---|",
    ]
    for name, task in found["by_task"].items():
        reasons = "; ".join(task["reasons"])[:160].replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {name} | {task['passed']} of {task['trials']} | {reasons} |")
    return "\n".join([*lines, ""])


def _table(title: str, groups: Entry) -> list[str]:
    lines = [f"| {title} | passed at the first trial, with Wilson's 95 % interval | pass^k |", "|---|---|---|"]
    for name, figures in groups.items():
        share = figures["passed_first"]
        hats = ", ".join(f"{100 * one['pass_hat_k']:.1f} % (k = {one['k']})" for one in figures["by_k"])
        lines.append(f"| {name} | {Share(share['count'], share['total'])} | {hats} |")
    return lines


def junit(trials: Sequence[Trial]) -> ElementTree.ElementTree[ElementTree.Element]:
    """A test report: a suite for each suite, a case for each trial."""
    root = ElementTree.Element("testsuites")
    for name, found in _groups(trials, lambda trial: trial.suite).items():
        failures = sum(not trial.passed and not trial.is_fault for trial in found)
        attributes = {
            "name": name,
            "tests": str(len(found)),
            "failures": str(failures),
            "errors": str(sum(trial.is_fault for trial in found)),
            "time": f"{sum(trial.seconds for trial in found):.3f}",
        }
        suite = ElementTree.SubElement(root, "testsuite", attributes)
        for trial in found:
            _case(suite, trial)
    return ElementTree.ElementTree(root)


def _case(suite: ElementTree.Element, trial: Trial) -> None:
    place = f"{trial.suite}.{trial.category}" if trial.category else trial.suite
    name = f"{trial.task}[{trial.number}]"
    attributes = {"classname": place, "name": name, "time": f"{trial.seconds:.3f}"}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    if not trial.passed:
        # What a model wrote may hold signs that XML cannot.
        text = _NOT_XML.sub("�", "\n".join(trial.reasons))
        kind = "error" if trial.is_fault else "failure"
        told_as = {"message": text.partition("\n")[0], "type": trial.exit_status}
        ElementTree.SubElement(case, kind, told_as).text = text
