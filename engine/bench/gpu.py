"""Everything the model's speed on one CUDA device is judged by, in one run of one script within a time budget.

    python engine/bench/gpu.py --output DIR [--seconds 230]      on the device: the whole published shape, 137 GB;
                                                                 79 with few tables, where there is no room for all
    python engine/bench/gpu.py --output DIR --smoke              two layers, 1 GB of tables: every part once
    TRITON_INTERPRET=1 python engine/bench/gpu.py --output DIR --dry-run    anywhere: every line of it, tiny

Weights are random and made on the device; nothing is read from disk. Parts come in the order of their worth, and
DIR/gpu.json is written after every row, each figure beside the limit that follows from the rates of the same run. A
part that fails leaves its fault and the next goes on; where the device is lost with it, or a part says nothing for too
long, the rest is measured by a new process. `gpu_plot.py` draws the record.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from gpu_bench import Bench
    from gpu_record import Rows

Part: TypeAlias = "tuple[str, Callable[[], Rows], float]"
"""A name, the rows, and the seconds without which it is not begun."""

PRECISIONS = ("fp8", "int4", "int8")
MAX_PROCESSES = 4
SUMMARY = ("batch", "new", "prompt", "step_ms", "graph_ms", "seconds", "fraction", "graph_fraction")
USAGE = 2
"""Exit code of a worker that was asked for what there is not."""
LOST = 3
"""A worker's exit code where its process can measure no more."""


def parts(bench: Bench, names: tuple[str, ...], *, is_smoke: bool) -> Iterator[Part]:
    """By worth; those that share a cache follow one another. A smoke run has the ones first that no other resembles."""
    import gpu_decode
    import gpu_pinned_experts
    import gpu_prefill
    import gpu_tables
    import gpu_visits
    from gpu_visits import SAMPLINGS, USUAL_STEPS

    scale = bench.scale
    few = scale.batches[:2]
    every: list[Part] = [
        ("ceilings", partial(gpu_decode.ceilings, bench), 2),
        ("equality with fp32", partial(gpu_decode.equality_with_fp32, bench), 10),
        ("load", partial(gpu_decode.load, bench), 5),
        ("equality", partial(gpu_decode.equality, bench), 5),
        (f"decode {scale.context}", partial(gpu_decode.decode, bench, scale.context, scale.batches), 5),
        ("kernels", partial(gpu_decode.kernels, bench), 5),
        ("decode profile", partial(gpu_decode.decode_profile, bench), 4),
        (f"decode {scale.short_context}", partial(gpu_decode.decode, bench, scale.short_context, scale.batches), 5),
        ("verify", partial(gpu_decode.verify, bench), 5),
        ("peer", partial(gpu_decode.modules, bench), 3),
        *((f"decode {context}", partial(gpu_decode.decode, bench, context, few), 5) for context in scale.long_contexts),
        ("engine", partial(gpu_decode.engine, bench), 5),
        ("engine, visits", partial(gpu_decode.engine, bench, USUAL_STEPS), 5),
        ("engine, drawn", partial(gpu_decode.engine, bench, sampling=SAMPLINGS["top-p"]), 5),
        ("engine, drawn, visits", partial(gpu_decode.engine, bench, USUAL_STEPS, SAMPLINGS["top-p"]), 5),
        ("visits", partial(gpu_visits.visits, bench), 8),
        ("isolation", partial(gpu_tables.isolation, bench), 8),
        ("prefill", partial(gpu_prefill.prefill, bench), 12),
        ("kept turns", partial(gpu_prefill.kept_turns, bench), 8),
        ("prefill profile", partial(gpu_prefill.prefill_profile, bench), 5),
        *(part for one in PRECISIONS for part in _packed_parts(bench, one)),
        ("experts pinned", partial(gpu_pinned_experts.pinned_experts, bench), 30),
        ("attention", partial(gpu_prefill.attention, bench), 10),
        ("whole tables pinned", partial(gpu_tables.whole_tables, bench), 45),
    ]
    unknown = set(names) - {part[0] for part in every}
    if unknown:
        print(f"no part {', '.join(sorted(unknown))}; there are: {'; '.join(part[0] for part in every)}")
        raise SystemExit(USAGE)
    if is_smoke:
        first = ("ceilings", "equality with fp32", "load", "equality", every[4][0], "prefill", "isolation", "attention")
        every.sort(key=lambda part: first.index(part[0]) if part[0] in first else len(first))
    return (part for part in every if not names or part[0] in names)


def _packed_parts(bench: Bench, precision: str) -> tuple[Part, ...]:
    import gpu_decode
    import gpu_prefill
    from gpu_visits import USUAL_STEPS

    context = bench.scale.context
    return (
        (f"decode {context} {precision}", partial(gpu_decode.precision, bench, precision), 10),
        (f"turns {precision}", partial(gpu_prefill.packed_turns, bench, precision), 5),
        (f"kernels {precision}", partial(gpu_decode.kernels, bench, precision), 8),
        (f"engine, visits {precision}", partial(gpu_decode.engine, bench, USUAL_STEPS, precision=precision), 5),
    )


def work(options: argparse.Namespace) -> int:
    """Measure what the record does not have yet."""
    import torch
    from gpu_bench import Bench
    from gpu_model import DRY_SCALE, SMOKE_SCALE, Device, Scale, config_of, values_for, with_tables_that_fit
    from gpu_record import DeviceLost, Record

    device = Device("cpu" if options.dry_run else "cuda")
    scale = DRY_SCALE if options.dry_run else SMOKE_SCALE if options.smoke else Scale()
    values = values_for(options.layers, is_smoke=options.smoke, is_dry=options.dry_run)
    values, smaller = with_tables_that_fit(values, device.memory_bytes)
    what = f"{values['num_layers']} layers, hidden {values['hidden_size']}, random weights made on the device{smaller}"
    record = Record(options.output, options.seconds, {"what": what, "device": device.facts()})
    record.write()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            config_of(Path(folder), values),
            device,
            scale,
            is_dry=options.dry_run,
            measured=record.values["parts"],
            small=values_for(None, is_smoke=True, is_dry=options.dry_run),
        )
        try:
            for name, rows, needs_s in parts(bench, tuple(options.part), is_smoke=options.smoke):
                record.measure(name, rows, 0 if options.dry_run or options.smoke else needs_s)
        except DeviceLost as fault:
            print(f"the device is lost to this process: {fault}", flush=True)
            return LOST
    return 0


def supervise(options: argparse.Namespace) -> int:
    """Workers one after another until everything is measured or the time is used up."""
    ends = time.monotonic() + options.seconds
    for _ in range(MAX_PROCESSES):
        left = ends - time.monotonic()
        if left < options.least_seconds:
            break
        code = _watched([*sys.argv, "--worker", "--seconds", f"{left:.0f}"], options, ends)
        if code == USAGE:
            return USAGE
        if code == 0:
            break
        print(f"a worker ended with {code}; what is left is measured by another", flush=True)
    return _summary(options.output / "gpu.json")


def _watched(arguments: list[str], options: argparse.Namespace, ends: float) -> int:
    """The exit code of a worker, which is ended when it is silent for too long or over time."""
    worker = subprocess.Popen([sys.executable, *arguments])  # this very script
    started, record = time.time(), options.output / "gpu.json"
    while worker.poll() is None:
        time.sleep(0.2)
        heard = max(started, record.stat().st_mtime if record.exists() else 0.0)
        is_silent = time.time() - heard > options.silence
        if is_silent or time.monotonic() > ends + options.grace:
            print("the worker is ended: " + ("silent for too long" if is_silent else "over time"), flush=True)
            worker.kill()
            worker.wait()
            return -9 if is_silent else 0
    return worker.returncode


def _summary(path: Path) -> int:
    if not path.exists():
        print("no record: the worker never began")
        return 1
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    print(f"parts with figures: {', '.join(values['parts']) or 'none'}")
    print(f"faults: {', '.join(values['faults']) or 'none'}; skipped: {', '.join(values['skipped']) or 'none'}")
    for name, rows in values["parts"].items():
        for row in rows:
            if "fraction" in row and name.startswith(("decode", "prefill", "verify")):
                print(
                    name,
                    {
                        key: row[key]
                        for key in ("batch", "new", "prompt", "step_ms", "seconds", "fraction")
                        if key in row
                    },
                )
    return 0


def _require(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What would end every worker is told before the first."""
    if options.output.exists() and not options.output.is_dir():
        parser.error(f"--output {options.output} is no folder; name another")
    if not options.dry_run:
        import torch

        if not torch.cuda.is_available():
            parser.error("torch finds no CUDA device here; --dry-run goes through everything without one")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for gpu.json")
    parser.add_argument("--seconds", type=float, help="for everything [default: 230; 40 with --smoke]")
    parser.add_argument("--layers", type=int, help="of 14")
    parser.add_argument("--part", action="append", default=[], help="only this one; may be given several times")
    parser.add_argument("--smoke", action="store_true", help="two layers and small tables: every part once")
    parser.add_argument("--dry-run", action="store_true", help="tiny, in Triton's interpreter")
    parser.add_argument("--silence", type=float, help="seconds without a row after which a worker is ended")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.seconds = options.seconds or (3600 if options.dry_run else 40 if options.smoke else 230)
    options.silence = options.silence or (600 if options.dry_run else 60)
    options.least_seconds, options.grace = 15.0, 5.0
    options.output = options.output.absolute()
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
    if not options.worker:
        _require(parser, options)
    return work(options) if options.worker else supervise(options)


if __name__ == "__main__":
    sys.exit(main())
