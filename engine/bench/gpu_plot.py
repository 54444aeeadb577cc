"""Draw the record of `gpu.py`: the fraction of the limit that decoding reaches, by batch and precision.

python engine/bench/gpu_plot.py DIR/gpu.json fractions.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def curves(record: dict[str, Any]) -> dict[str, list[tuple[int, float, float]]]:
    """Batch, fraction and tokens per second of each precision and context; points that failed are left out."""
    found: dict[tuple[str, int], list[tuple[int, float, float]]] = {}
    for name, rows in record["parts"].items():
        if not name.startswith("decode") or name == "decode profile":
            continue
        for row in rows:
            if "fraction" in row and row.get("new") == 1:
                points = found.setdefault((row["precision"], row["context"]), [])
                points.append((row["batch"], row["fraction"], row["tokens_per_s"]))
    return {
        f"{precision}, {context // 1024}k": sorted(found[precision, context]) for precision, context in sorted(found)
    }


def draw(record: dict[str, Any], target: Path) -> None:
    """Fractions on the left, tokens per second on the right, both over the batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    shares, rates = figure.subplots(1, 2)
    for label, points in curves(record).items():
        batches, fractions, tokens = zip(*points, strict=True)
        shares.plot(batches, fractions, marker="o", label=label)
        rates.plot(batches, tokens, marker="o", label=label)
    for axes, title in ((shares, "fraction of the read limit"), (rates, "tokens per second")):
        axes.set(xscale="log", xlabel="sequences side by side", title=title)
        axes.set_xticks([1, 4, 16, 32], ["1", "4", "16", "32"])
        axes.grid(visible=True, alpha=0.3)
    shares.set_ylim(0, 1)
    rates.set_yscale("log")
    shares.legend(fontsize="small", loc="upper center", ncols=3)
    figure.suptitle(f"{record['device']['name']}: {record['what']}", fontsize="medium")
    figure.savefig(target, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path, help="gpu.json")
    parser.add_argument("picture", type=Path, help="PNG or SVG to draw")
    options = parser.parse_args()
    draw(json.loads(options.record.read_text(encoding="utf-8")), options.picture)


if __name__ == "__main__":
    main()
