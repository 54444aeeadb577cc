"""The figures as pictures. matplotlib draws them; where it is not installed, there are none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from kodkod_app.statistics import Share

Entry = dict[str, Any]
_SERIES = {"agent": "candidates", "agent_first": "first alone", "blind": "blind search"}


def write_plots(found: Entry, folder: Path) -> list[Path]:
    """Draw the figures of `report.summary`; the files, none where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    return [
        _bars(found["by_kind"], "class of fault", folder / "by_class.png"),
        _bars(found["by_package"], "package", folder / "by_package.png"),
        _tries(found, folder / "by_candidates.png"),
    ]


def _bars(groups: Entry, title: str, path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.6 + 0.55 * max(1, len(groups))), layout="constrained")
    axes = figure.subplots()
    for number, (key, label) in enumerate(_SERIES.items()):
        shares = [Share(group[key]["count"], group[key]["total"]) for group in groups.values()]
        places = [place + (number - 1) * 0.27 for place in range(len(shares))]
        errors = [
            [100 * max(0.0, share.value - share.interval[0]) for share in shares],
            [100 * max(0.0, share.interval[1] - share.value) for share in shares],
        ]
        axes.barh(places, [100 * share.value for share in shares], 0.25, xerr=errors, label=label, ecolor="#888888")
    totals = (group["agent"]["total"] for group in groups.values())
    labels = [f"{name.replace('_', ' ')} ({total})" for name, total in zip(groups, totals, strict=True)]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="resolved, % (Wilson's 95 % interval)", title=f"by {title}")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    return path


def _tries(found: Entry, path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    total = max(1, found["faults"])
    resolved = [100 * count / total for count in found["by_tries"]]
    axes.plot(range(1, len(resolved) + 1), resolved, marker="o", label="agent")
    axes.axhline(100 * found["resolved"]["blind"]["value"], color="#888888", linestyle="--", label="blind search")
    axes.set(ylim=(0, 100), xlabel="candidates", ylabel="resolved, %", title=f"{found['faults']} faults")
    axes.legend()
    figure.savefig(path, dpi=120)
    return path
