"""One list of probes for every box: what the contract promises, tried on the real thing.

    python -m kodkod_sandbox.conformance TARGET [PROBE ...]

A target is an implementation, `landlock-root`, `landlock-user` or `landlock-bare` for one way of isolating. Hostile
probes have low limits of their own and end by themselves, so that a box that does not hold endangers nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kodkod_sandbox.base import BoxOptions, Sandbox
from kodkod_sandbox.choose import make_sandbox
from kodkod_sandbox.errors import SandboxError
from kodkod_sandbox.images import BASE, Image
from kodkod_sandbox.landlock import Isolation, LandlockSandbox
from kodkod_sandbox.probes import Bench, Probe, ProbeFailed, all_probes

LIMIT_S = 60.0
"""For one probe. All but the slowest need a second."""

_BARE = "no namespaces: "
_NOTHING = "no isolation, by choice"
GAPS: dict[str, dict[str, str]] = {
    "none": dict.fromkeys(
        (
            "no_tcp",
            "no_udp",
            "no_dns",
            "no_abstract_socket",
            "no_socket_file",
            "no_write_outside",
            "no_read_outside",
            "no_read_home",
            "no_symlink_read",
            "no_symlink_write",
            "no_parent_paths",
            "no_root_links",
            "no_foreign_processes",
            "no_foreign_signals",
            "no_ptrace",
            "no_keys",
            "no_new_privileges",
            "boxes_are_apart",
        ),
        _NOTHING,
    ),
    "landlock-bare": {
        "no_foreign_processes": _BARE + "the machine's processes are listed in /proc, though not readable",
        "loopback_works": _BARE + "sockets are refused altogether, as there is no network of the box's own",
    },
}
"""What a target cannot hold, and why. Each is tested to be so: a gap that closes must leave this table."""

ROOT_GAPS: dict[str, dict[str, str]] = {
    "none": dict.fromkeys(("is_not_root", "no_mounting"), _NOTHING),
    "landlock-bare": {
        "is_not_root": _BARE + "root's files need root as their user; it has no capabilities and the rules hold",
    },
}
"""Further gaps when kodkod is root, and so is the work tree's owner."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one probe found."""

    probe: str
    held: bool
    detail: str
    duration_s: float


def gaps(target: str, *, as_root: bool) -> dict[str, str]:
    """Probes that a target is known not to hold, with the reason."""
    return {**GAPS.get(target, {}), **(ROOT_GAPS.get(target, {}) if as_root else {})}


def make_target(target: str, options: BoxOptions, image: Image = BASE) -> Sandbox:
    """A box by target name, not started."""
    kind, _, way = target.partition("-")
    if way:
        return LandlockSandbox(options, Isolation(way))
    return make_sandbox(kind, options, image)


@contextlib.asynccontextmanager
async def open_bench(target: str, parent: Path) -> AsyncGenerator[Bench, None]:
    """A started box on a fresh work tree below `parent`, with something beside it that must stay out of reach."""
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as folder:
        bench = Bench(target, Path(folder).resolve(), lambda options: make_target(target, options))
        try:
            await bench.open()
            yield bench
        finally:
            await bench.close()


async def run_probe(probe: Probe, bench: Bench) -> Outcome:
    """Run one probe. A fault of the box counts as not holding."""
    start_s = time.monotonic()
    try:
        await asyncio.wait_for(probe.run(bench), LIMIT_S)
    except (ProbeFailed, SandboxError, TimeoutError) as failure:
        return Outcome(probe.name, False, str(failure) or type(failure).__name__, time.monotonic() - start_s)
    return Outcome(probe.name, True, "", time.monotonic() - start_s)


async def run_probes(target: str, parent: Path, names: Sequence[str] = ()) -> AsyncGenerator[Outcome, None]:
    """Run the named probes, or all, on one box; outcomes as they come.

    Raises:
        SandboxError: the box cannot be had.
    """
    async with open_bench(target, parent) as bench:
        for probe in all_probes():
            if not names or probe.name in names:
                yield await run_probe(probe, bench)


async def report(target: str, parent: Path, names: Sequence[str]) -> bool:
    """Print one line of JSON for each probe. Whether all hold."""
    held = True
    async with contextlib.aclosing(run_probes(target, parent, names)) as outcomes:
        async for outcome in outcomes:
            held &= outcome.held
            line = {"probe": outcome.probe, "held": outcome.held, "detail": outcome.detail, "s": outcome.duration_s}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
    return held


async def hold(target: str, folder: Path) -> None:
    """Open a box, leave something running in it, say so, and wait to be killed (the probe of that name)."""
    bench = Bench(target, folder, lambda options: make_target(target, options))
    await bench.open()
    async for item in bench.box.exec_stream(bench.heartbeat + "& echo ready; sleep 60", timeout_s=60):
        sys.stdout.write(repr(item) + "\n")
        sys.stdout.flush()


def main() -> int:
    """The command line; 1 when a probe does not hold."""
    parser = argparse.ArgumentParser(prog="kodkod_sandbox.conformance", description="probe a box")
    parser.add_argument("target")
    parser.add_argument("probes", nargs="*")
    parser.add_argument("--hold", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        asyncio.run(hold(arguments.target, Path(arguments.hold)))
        return 0
    try:
        held = asyncio.run(report(arguments.target, Path(tempfile.gettempdir()), arguments.probes))
    except SandboxError as fault:
        sys.stderr.write(f"{fault}\n")
        return fault.exit_code
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
