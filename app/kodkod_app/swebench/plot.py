"""The figures of a run as one picture. matplotlib draws it; where it is not installed, there is none."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_plot(found: Mapping[str, Any], path: Path) -> bool:
    """Draw the shares of `report.summary` with their intervals; whether it could be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    shares = {f"run {run}": share for run, share in found["resolved_by_run"].items()}
    shares |= {f"control: {name}": share for name, share in found["controls"].items()}
    if "compared" in found:
        shares |= {f"{found['compared']['names'][1]} (shared)": found["compared"]["second"]}
    figure = Figure(figsize=(7, 1.2 + 0.45 * len(shares)), layout="constrained")
    axes = figure.subplots()
    values = [100 * share["value"] for share in shares.values()]
    below = [max(0.0, 100 * (share["value"] - share["low"])) for share in shares.values()]
    above = [max(0.0, 100 * (share["high"] - share["value"])) for share in shares.values()]
    axes.barh(list(shares), values, 0.5, xerr=[below, above], ecolor="#888888", capsize=3)
    axes.invert_yaxis()
    title = f"{found['setting']['name']}, {found['instances']} instances"
    axes.set(xlim=(0, 100), xlabel="resolved, % (Wilson's 95 % interval)", title=title)
    figure.savefig(path, dpi=120)
    return True
