"""Quick test runs of a package with some of its files changed, in a scratch copy of its tree."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from kodkod_app.nano.packages import Package
from kodkod_tools import junit
from kodkod_tools.locate.suspects import BadTrace, Trace, read_trace

_UNUSED = ("cacheprovider", "faulthandler", "unraisableexception", "threadexception", "warnings")
"""Parts of pytest that take time and say nothing that is read here."""
_OPTIONS = ("-qq", "--tb=short", "--capture=sys", "-o", "junit_family=xunit1", *(f"-pno:{name}" for name in _UNUSED))
_MAX_TRACE_BYTES = 512 * 1024**2
_MAX_MEMORY_BYTES = 4 * 1024**3
_HOUR_NS = 3600 * 10**9
_PATIENCE_S = 30.0
"""Beyond a run's own limit, for the server to start and to answer."""


class RunnerFault(Exception):
    """The server of test runs died or does not answer."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class RunResult:
    """One run."""

    cases: tuple[junit.Case, ...]
    """None of them when it was killed."""
    trace: Trace
    duration_s: float
    exit_code: int
    """pytest's; negative for a signal."""
    timed_out: bool
    seconds: Mapping[str, float]
    """By node id."""

    @property
    def failed(self) -> frozenset[str]:
        """Node ids of the tests that fail; no modules that could not be collected."""
        return frozenset(name for name, test in self.trace.tests.items() if test.failing)


class FastRunner:
    """A scratch copy of a tree and a server beside it. A context manager; one run at a time."""

    def __init__(self, package: Package, left_out: Iterable[str] = ()) -> None:
        """Copy the tree and start the server; `left_out` are tests that no run has, until others are said."""
        self.left_out = frozenset(left_out)
        self._scratch = Path(tempfile.mkdtemp(prefix="kodkod-runs-")).resolve()
        self.tree = self._scratch / "tree"
        shutil.copytree(package.tree, self.tree, symlinks=True)
        (self._scratch / "home").mkdir()
        (self._scratch / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        self._server = self._started(package)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the server and remove the copy."""
        self._server.kill()
        self._server.communicate()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def run(
        self,
        changes: Mapping[str, str],
        tests: Sequence[str],
        timeout_s: float,
        *,
        max_test_s: float | None = None,
        keep_bytecode: bool = False,
    ) -> RunResult:
        """Run some tests with some files changed; afterwards the files are as they were.

        Args:
            changes: text by path, relative to the tree.
            tests: node ids, files or folders.
            timeout_s: after which the run and all it started is killed.
            max_test_s: after which a test fails for its slowness; no limit by default.
            keep_bytecode: only for a run without changes: later runs start quicker.

        Raises:
            RunnerFault: there is no server any more.
        """
        order = {"tests": list(tests), "timeout_s": timeout_s, "max_test_s": max_test_s, "keep_bytecode": keep_bytecode}
        with self._changed(changes):
            answer = self._asked(order)
        return RunResult(
            cases=self._cases(),
            trace=self._trace(),
            duration_s=answer["duration_s"],
            exit_code=answer["exit_code"],
            timed_out=answer["timed_out"],
            seconds=json.loads(self._written("seconds") or b"{}"),
        )

    def read(self, path: str) -> str:
        """A file of the sound tree."""
        return (self.tree / path).read_text(encoding="utf-8")

    def last_words(self) -> str:
        """The last error that the last run printed; else its last line."""
        lines = [line for line in self._written("log").decode(errors="replace").split("\n") if line.strip()]
        errors = [line.removeprefix("E").strip() for line in lines if line.startswith("E  ")]
        return (errors or lines or ["nothing"])[-1]

    def _started(self, package: Package) -> subprocess.Popen[bytes]:
        here = files("kodkod_app.nano")
        options = [*_OPTIONS, "-c", str(self._scratch / "pytest.ini"), "--rootdir", str(self.tree)]
        settings = {
            "tree": str(self.tree),
            "imports": [str(self.tree / package.spec.source), *map(str, package.import_folders)],
            "plugin": str(files("kodkod_tools.locate") / "plugin.py"),
            "options": options,
            "max_memory_bytes": _MAX_MEMORY_BYTES,
        }
        home = str(self._scratch / "home")
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": home,
            "TMPDIR": home,
            "LANG": "C.UTF-8",
            "CI": "1",  # hypothesis then draws the same examples every time
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "_KODKOD_TRACE_MAX_BYTES": str(_MAX_TRACE_BYTES),
        }
        return subprocess.Popen(
            [sys.executable, "-P", str(here / "forkserver.py"), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )

    def _asked(self, order: Mapping[str, Any]) -> dict[str, Any]:
        for name in ("report", "trace", "seconds"):
            (self._scratch / name).unlink(missing_ok=True)
        places = {name: str(self._scratch / name) for name in ("report", "trace", "seconds", "log")}
        line = json.dumps({**order, **places, "left_out": sorted(self.left_out)}).encode() + b"\n"
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        try:
            self._server.stdin.write(line)
            self._server.stdin.flush()
        except OSError as error:
            raise RunnerFault("the server of test runs ended; is pytest installed here?") from error
        ready, _, _ = select.select([self._server.stdout], [], [], order["timeout_s"] + _PATIENCE_S)
        told = self._server.stdout.readline() if ready else b""
        if not told:
            raise RunnerFault("the server of test runs does not answer; is pytest installed here?")
        answer: dict[str, Any] = json.loads(told)
        return answer

    @contextlib.contextmanager
    def _changed(self, changes: Mapping[str, str]) -> Iterator[None]:
        """Compiled code kept beside a file is told by size and second to be of it.

        So a changed file is an hour younger than it was, and the times are put back with the text.
        """
        before = {path: ((self.tree / path).read_bytes(), (self.tree / path).stat()) for path in changes}
        try:
            for path, text in changes.items():
                (self.tree / path).write_text(text, encoding="utf-8")
                stat = before[path][1]
                os.utime(self.tree / path, ns=(stat.st_atime_ns, stat.st_mtime_ns + _HOUR_NS))
            yield
        finally:
            for path, (data, stat) in before.items():
                (self.tree / path).write_bytes(data)
                os.utime(self.tree / path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    def _cases(self) -> tuple[junit.Case, ...]:
        try:
            return tuple(junit.read(self._written("report")))
        except junit.BadReport:
            return ()

    def _trace(self) -> Trace:
        try:
            return read_trace(self._written("trace"))
        except BadTrace:
            return Trace(tests={})

    def _written(self, name: str) -> bytes:
        try:
            return (self._scratch / name).read_bytes()
        except OSError:
            return b""
