"""How quick the terminal app is, from outside: a real terminal, real keys, the bytes that come back.

    python app/bench/terminal.py [--only NAME ...]

first_paint   process start to the first whole frame of `kodkod`, and the processor time spent by then
key_to_screen a key pressed until its letter is in the output, while 200 tokens/s stream
scrolling     page up through 5,000 entries: a key pressed until its frame is there, and until all that it leads to
              (entries mounted around the view) is done; memory without an engine
interrupt     Esc in the middle of decoding until the run is told to be over, and until what it changed is told too; a
              small random model that hardly ever ends by itself, in the same process
soak          30 minutes of work at 200 tokens/s, played as fast as the screen takes it: memory over time

Results go to `app/bench/results`, dated, with the load the machine was under: figures of a busy machine are too large.
Beside what passed on the clock stands what the app computed meanwhile (`processor`), which others do not change.
Where it cannot be kept quiet, `chrt -r 5 python app/bench/terminal.py` puts the app before all else; a soak that is not
through after SOAK_LIMIT_S seconds is told of as far as it came.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import pty
import re
import select
import statistics
import string
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil

RESULTS = Path(__file__).parent / "results"
PLAYED = Path(__file__).with_name("played.py")
ROWS, COLUMNS = 40, 120
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[PX^_\]].*?(?:\x1b\\|\x07)|[ -/]*[0-~])", re.DOTALL)
_FRAME_GAP_S = 0.004
"""A frame is over when nothing came for so long."""
_QUIET_S = 0.15
"""All is done when nothing came for so long."""
_TIMEOUT_S = 60.0
_SOAK_LIMIT_S = float(os.environ.get("SOAK_LIMIT_S", "1800"))
"""A soak that is not through by then is told of as far as it came."""
_INTERRUPTS = 24
_MIB = 1024**2


class Terminal:
    """A process in a terminal of its own."""

    def __init__(self, command: Sequence[str], home: Path) -> None:
        self.began_s = time.perf_counter()
        environment = {**os.environ, "KODKOD_HOME": str(home), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(home)
            os.execve(command[0], list(command), environment)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self.process = psutil.Process(self.pid)

    def read(self, timeout_s: float) -> bytes:
        """What comes within this time; empty when nothing does, or when it has ended."""
        ready, _, _ = select.select([self._fd], [], [], timeout_s)
        try:
            return os.read(self._fd, 1 << 20) if ready else b""
        except OSError:
            return b""

    def write(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._fd, keys)

    def until(self, is_there: Callable[[bytes], bool]) -> bytes:
        """Read on until the output so far, without escape sequences, is as wanted."""
        output, end_s = b"", time.perf_counter() + _TIMEOUT_S
        while not is_there(_SEQUENCE.sub(b"", output)):
            output += self.read(0.05)
            if time.perf_counter() > end_s:
                raise TimeoutError(f"it never came; the last bytes: {output[-300:]!r}")
        return output

    def settle(self, quiet_s: float) -> None:
        """Read until nothing comes for a while."""
        while self.read(quiet_s):
            pass

    def processor_s(self) -> float:
        """Time its threads have spent computing: what a busy machine does not change."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def rss_bytes(self) -> int:
        """Memory it holds."""
        return int(self.process.memory_info().rss)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(psutil.NoSuchProcess):
            self.process.kill()
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self._fd)


def is_painted(output: bytes) -> bool:
    """The first frame is whole: the prompt's box, which is at its foot, is closed."""
    return "╯".encode() in output


def first_paint(home: Path) -> dict[str, Any]:
    """Wall clock and processor time; the first start of all is left out, for it writes byte code."""
    kodkod = str(Path(sys.executable).with_name("kodkod"))
    wall_s, processor_s = [], []
    for _ in range(11):
        with Terminal([kodkod, "--sandbox", "none"], home) as terminal:
            terminal.until(is_painted)
            wall_s.append(time.perf_counter() - terminal.began_s)
            times = terminal.process.cpu_times()
            processor_s.append(times.user + times.system)
    return {"wall_s": spread(wall_s[1:]), "processor_s": spread(processor_s[1:]), "wanted_s": 0.5}


def key_to_screen(home: Path) -> dict[str, Any]:
    """Capitals, which nothing else on the screen has, pressed 200 times in the middle of a stream."""
    samples, spent = [], []
    with Terminal([sys.executable, str(PLAYED), "--rate", "200"], home) as terminal:
        terminal.until(is_painted)
        time.sleep(2.0)
        terminal.settle(0.001)
        for press in range(208):
            letter = string.ascii_uppercase[press % 26].encode()
            pressed_s, before_s = time.perf_counter(), terminal.processor_s()
            terminal.write(letter)
            terminal.until(lambda output, letter=letter: letter in output)  # type: ignore[misc]
            samples.append(time.perf_counter() - pressed_s)
            spent.append(terminal.processor_s() - before_s)
            if press % 26 == 25:
                terminal.write(b"\x15\x15")  # ctrl+u: what was written is taken away
            _read_for(terminal, 0.031 + press % 7 * 0.004)
        busy = terminal.process.cpu_percent(1.0)
    told = {"key_s": spread(samples), "key_processor_s": spread(spent), "wanted_p95_s": 0.03}
    return {**told, "processor_percent_while_streaming": busy}


def _read_for(terminal: Terminal, seconds: float) -> None:
    end_s = time.perf_counter() + seconds
    while (left_s := end_s - time.perf_counter()) > 0:
        terminal.read(left_s)


def scrolling(home: Path) -> dict[str, Any]:
    """Up through a long session and down again."""
    frames, whole, spent = [], [], []
    with Terminal([sys.executable, str(PLAYED), "--entries", "5000"], home) as terminal:
        terminal.until(is_painted)
        _read_for(terminal, 4.0)
        opened = terminal.rss_bytes()
        for key in [b"\x1b[5~"] * 150 + [b"\x1b[6~"] * 50:
            frame_s, whole_s, processor_s = _frame_s(terminal, key)
            frames.append(frame_s)
            whole.append(whole_s)
            spent.append(processor_s)
        held = terminal.rss_bytes()
    return {
        "frame_s": spread(frames),
        "frame_processor_s": spread(spent),
        "all_done_s": spread(whole),
        "wanted_p95_s": 0.05,
        "rss_mib_opened": round(opened / _MIB, 1),
        "rss_mib_scrolled": round(held / _MIB, 1),
        "wanted_rss_mib": 250,
    }


def _frame_s(terminal: Terminal, key: bytes) -> tuple[float, float, float]:
    """From the key to the last byte of the first frame that it brought, and of all; the time computed for the frame."""
    before_s = terminal.processor_s()
    pressed_s = last_s = time.perf_counter()
    terminal.write(key)
    while terminal.read(_FRAME_GAP_S if last_s > pressed_s else 2.0):
        last_s = time.perf_counter()
    frame_s, spent_s = last_s, terminal.processor_s() - before_s
    while terminal.read(_QUIET_S):
        last_s = time.perf_counter()
    return frame_s - pressed_s, last_s - pressed_s, spent_s


def interrupt(home: Path) -> dict[str, Any]:
    """Again and again, at different moments of a step, each time in a new session: no older run says the same words."""
    from kodkod_app.bootstrap import demonstration_checkpoint

    project = home / "project"
    project.mkdir()
    (home / "sessions").mkdir()
    (home / "sessions" / ".welcomed").touch()
    subprocess.run(["git", "init", "-q", str(project)], check=True)
    kodkod = str(Path(sys.executable).with_name("kodkod"))
    flags = ["-C", str(project), "-m", str(demonstration_checkpoint()), "--sandbox", "none"]
    told, reported = [], []
    with Terminal([kodkod, *flags], home) as app:
        app.until(lambda output: b"demonstration" in output)
        for press in range(_INTERRUPTS):
            app.settle(0.5)
            app.write(b"write on and on\r")
            app.until(lambda output: b"tok/s" in output)
            _read_for(app, press % 8 * 0.013)
            pressed_s = time.perf_counter()
            app.write(b"\x1b")
            output = app.until(lambda output: b"interrupted" in output)
            told.append(time.perf_counter() - pressed_s)
            if b" turns " not in _SEQUENCE.sub(b"", output):
                app.until(lambda output: b" turns " in output)
            reported.append(time.perf_counter() - pressed_s)
            app.settle(0.2)
            app.write(b"/new\r")
    return {"interrupt_s": spread(told), "reported_s": spread(reported), "wanted_s": 0.1}


def soak(home: Path) -> dict[str, Any]:
    """Memory at even steps of the way."""
    minutes, progress = 30, home / "progress"
    progress.write_text("0", encoding="utf-8")
    wanted = minutes * 60 * 200
    rows: list[dict[str, float]] = []
    began_s = time.perf_counter()
    command = [sys.executable, str(PLAYED), "--soak-minutes", str(minutes), "--progress", str(progress)]
    with Terminal(command, home) as terminal:
        while time.perf_counter() - began_s < _SOAK_LIMIT_S:
            _read_for(terminal, 1.0)
            try:
                played = int(progress.read_text(encoding="utf-8") or 0)
                rss = terminal.rss_bytes()
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                break
            if rss == 0 or terminal.process.status() == psutil.STATUS_ZOMBIE:
                break
            if played / wanted >= len(rows) / 60:
                rows.append({"minute": round(played / 200 / 60, 1), "rss_mib": round(rss / _MIB, 1)})
    told = {"seconds": round(time.perf_counter() - began_s, 1), "tokens": played, "wanted_tokens": wanted}
    return {**told, "memory": rows}


def spread(samples: Sequence[float]) -> Mapping[str, float]:
    """What is told of repeated measurements."""
    ordered = sorted(samples)
    told = {
        "median": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "min": ordered[0],
        "max": ordered[-1],
    }
    return {name: round(value, 4) for name, value in told.items()} | {"samples": len(ordered)}


BENCHMARKS = (first_paint, key_to_screen, scrolling, interrupt, soak)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=[one.__name__ for one in BENCHMARKS], default=None)
    only = parser.parse_args().only
    record: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}", "commit": _commit(), **_machine()}
    for benchmark in BENCHMARKS:
        if only is None or benchmark.__name__ in only:
            with tempfile.TemporaryDirectory(prefix="kodkod-bench-") as folder:
                load = os.getloadavg()[0]
                record[benchmark.__name__] = {**benchmark(Path(folder)), "load_average": round(load, 1)}
            print(json.dumps({benchmark.__name__: record[benchmark.__name__]}, indent=1), flush=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.now(UTC):%Y-%m-%d-%H%M}-terminal.json"
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(path)


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version()}


def _commit() -> str:
    def git(*words: str) -> str:
        ended = subprocess.run(["git", *words], cwd=RESULTS.parent, capture_output=True, text=True, check=False)
        return ended.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain") else "")


if __name__ == "__main__":
    main()
