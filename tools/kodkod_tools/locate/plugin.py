"""A pytest plugin that records the project's lines each test runs, in its set-up and its call.

It is copied beside the tests and run by *their* Python, so it needs pytest alone and speaks Python 3.8. What it writes:

    {"tests": {node_id: {"outcome": "passed", "lines": {path: [line, ...]}}}}

Paths are relative to the project. A failing test has two entries more: `traceback` (path to lines, as in `lines`) and
`calls` ([path, first line of a function], in the order of their first call). Told by the environment:
_KODKOD_TRACE_FILE, _KODKOD_TRACE_ROOT and _KODKOD_TRACE_MAX_BYTES.

Lines that run at import (module level, class bodies, `def` itself) are not recorded; neither is anything in test files,
in hidden folders or in installed packages.
"""

from __future__ import annotations

import dis
import json
import os
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

MAX_PASSING_TESTS = 5_000
PASSING_SHARE = 0.75
"""Of the bytes allowed; the rest is kept free for tests that fail."""
LINE_PATIENCE, CALL_PATIENCE = 5_000, 200_000
_IS_FUNCTION = 0x1
"""CO_OPTIMIZED: set for functions, lambdas and comprehensions; not for modules and class bodies."""
_INSTALLED = frozenset({"site-packages", "dist-packages", "venv", "tests", "test", "__pycache__"})


class Project:
    """Which code is the project's own."""

    def __init__(self, root: str) -> None:
        self.root = Path(root).resolve()
        self.paths: dict[str, str | None] = {}
        """What is known already, by file name."""

    def path(self, filename: str) -> str | None:
        """The file relative to the root; None where it is not to be recorded."""
        if filename not in self.paths:
            self.paths[filename] = self._relative(filename)
        return self.paths[filename]

    def _relative(self, filename: str) -> str | None:
        if filename.startswith("<"):
            return None
        try:
            path = Path(filename).resolve().relative_to(self.root)
        except (ValueError, OSError, RuntimeError):
            return None
        hidden = any(part.startswith(".") or part in _INSTALLED for part in path.parts[:-1])
        test = path.name.startswith("test_") or path.name.endswith("_test.py") or path.name == "conftest.py"
        return None if hidden or test else path.as_posix()


class Record:
    """What one test ran."""

    def __init__(self) -> None:
        self.lines: dict[str, set[int]] = {}
        self.traceback: dict[str, set[int]] = {}
        self.calls: dict[tuple[str, int], None] = {}
        self.outcome = "passed"

    def ran(self, path: str) -> set[int]:
        """The lines of a file, to add to."""
        return self.lines.setdefault(path, set())

    def encoded(self) -> str:
        """As JSON."""
        value: dict[str, Any] = {"outcome": self.outcome, "lines": _sorted(self.lines)}
        if self.failing:
            value["traceback"] = _sorted(self.traceback)
            value["calls"] = list(self.calls)
        return json.dumps(value, separators=(",", ":"))

    @property
    def failing(self) -> bool:
        """Whether it counts as a failure."""
        return self.outcome in ("failed", "error")


def _sorted(lines: dict[str, set[int]]) -> dict[str, list[int]]:
    return {path: sorted(numbers) for path, numbers in sorted(lines.items()) if numbers}


class SettraceTracer:
    """Lines by `sys.settrace`, which is slow; so it looks away where nothing new is to be expected.

    A function is watched while it has lines this test has not run, and until LINE_PATIENCE lines brought none; the
    test until CALL_PATIENCE calls brought no function it had not called before.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._codes: dict[int, tuple[Any, frozenset[int]]] = {}
        self._called = self._caller(Record())
        self._before: Any = None

    def begin(self, record: Record) -> None:
        """A new test."""
        self._called = self._caller(record)

    def resume(self) -> None:
        """Record from here."""
        self._before = sys.gettrace()
        threading.settrace(self._called)
        sys.settrace(self._called)

    def pause(self) -> None:
        """Record no more; whoever traced before does so again."""
        sys.settrace(self._before)
        threading.settrace(self._before)

    def _caller(self, record: Record) -> Callable[..., Any]:
        """The trace function of one test. Every call of every function comes here: closures save look-ups."""
        project, calls = self._project, record.calls
        path_of = project.path
        known = project.paths.get
        local: dict[int, Callable[..., Any] | None] = {}
        patience = CALL_PATIENCE

        def called(frame: Any, _event: str, _arg: object) -> Callable[..., Any] | None:
            nonlocal patience
            code = frame.f_code
            path = known(code.co_filename, "")
            if path == "":
                path = path_of(code.co_filename)
            if path is not None and code.co_flags & _IS_FUNCTION:
                key = id(code)
                if key not in local:
                    patience = CALL_PATIENCE
                    calls[path, code.co_firstlineno] = None
                    local[key] = self._watch(code, record.ran(path), local)
                if local[key] is not None:
                    return local[key]
            patience -= 1
            if patience < 0:
                sys.settrace(None)
            return None

        return called

    def _watch(self, code: Any, ran: set[int], local: dict[int, Callable[..., Any] | None]) -> Callable[..., Any]:
        key = id(code)
        if key not in self._codes:  # the code is kept with its lines, so that its id stays its own
            self._codes[key] = (code, frozenset(line for _, line in dis.findlinestarts(code) if line is not None))
        left = set(self._codes[key][1])
        patience = LINE_PATIENCE

        def watch(frame: Any, event: str, _arg: object) -> Callable[..., Any] | None:
            nonlocal patience
            line = frame.f_lineno
            if event == "line" and line in left:
                left.discard(line)
                ran.add(line)
                patience = LINE_PATIENCE
            patience -= 1
            if left and patience:
                return watch
            local[key] = None
            frame.f_trace = None
            return None

        return watch


class MonitoringTracer:
    """Lines by `sys.monitoring` (Python 3.12): every line tells once per test and is then silent."""

    def __init__(self, project: Project, monitoring: Any, tool_id: int) -> None:
        self._project, self._monitoring, self._tool_id = project, monitoring, tool_id
        self._armed: dict[int, Any] = {}
        self._record: Record | None = None
        self._next = Record()
        events = monitoring.events
        monitoring.use_tool_id(tool_id, "kodkod")
        monitoring.register_callback(tool_id, events.PY_START, self._started)
        monitoring.register_callback(tool_id, events.LINE, self._line)

    def begin(self, record: Record) -> None:
        """A new test."""
        self._next = record

    def resume(self) -> None:
        """Record from here."""
        self._record = self._next
        self._monitoring.set_events(self._tool_id, self._monitoring.events.PY_START)
        self._monitoring.restart_events()

    def pause(self) -> None:
        """Record no more."""
        self._record = None
        self._monitoring.set_events(self._tool_id, 0)

    def _started(self, code: Any, _offset: int) -> object:
        path = self._project.path(code.co_filename)
        if path is not None and code.co_flags & _IS_FUNCTION:
            if self._record is not None:
                self._record.calls[path, code.co_firstlineno] = None
            if id(code) not in self._armed:
                self._armed[id(code)] = code
                self._monitoring.set_local_events(self._tool_id, code, self._monitoring.events.LINE)
        return self._monitoring.DISABLE

    def _line(self, code: Any, line: int) -> object:
        path = self._project.path(code.co_filename)
        if self._record is not None and path is not None:
            self._record.ran(path).add(line)
        return self._monitoring.DISABLE


def tracer(project: Project) -> SettraceTracer | MonitoringTracer:
    """The faster way this Python has."""
    monitoring: Any = getattr(sys, "monitoring", None)
    free = [number for number in (4, 3) if monitoring is not None and monitoring.get_tool(number) is None]
    return MonitoringTracer(project, monitoring, free[0]) if free else SettraceTracer(project)


class LinesPerTest:
    """The plugin: one record per test, kept as text while there is room."""

    def __init__(self, file: str, root: str, max_bytes: int) -> None:
        self._file, self._max_bytes = Path(file), max_bytes
        self._project = Project(root)
        self._tracer = tracer(self._project)
        self._record = Record()
        self._kept: dict[str, str] = {}
        self._bytes = 0
        self._passing = 0

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, None]:
        """Fixtures, on behalf of this test."""
        self._record = Record()
        self._tracer.begin(self._record)
        yield from self._traced()

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None, Any, None]:
        """The test itself."""
        yield from self._traced()

    def _traced(self) -> Generator[None, Any, None]:
        self._tracer.resume()
        try:
            yield
        finally:
            self._tracer.pause()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Generator[None, Any, None]:
        """How this phase ended; the record is kept after the last."""
        outcome = yield
        report = outcome.get_result()
        if report.failed:
            self._record.outcome = "failed" if report.when == "call" else "error"
            self._trace_back(call.excinfo)
        elif report.skipped and not self._record.failing:
            self._record.outcome = "skipped"
        if report.when == "teardown":
            self._keep(item.nodeid, self._record)

    def _trace_back(self, excinfo: Any) -> None:
        step = excinfo.tb if excinfo is not None else None
        while step is not None:
            code = step.tb_frame.f_code
            path = self._project.path(code.co_filename)
            if path is not None and code.co_flags & _IS_FUNCTION:
                self._record.traceback.setdefault(path, set()).add(step.tb_lineno)
            step = step.tb_next

    def _keep(self, node_id: str, record: Record) -> None:
        room = self._max_bytes if record.failing else int(self._max_bytes * PASSING_SHARE)
        entry = json.dumps(node_id) + ":" + record.encoded()
        if self._bytes + len(entry) + 32 > room or (not record.failing and self._passing >= MAX_PASSING_TESTS):
            return
        self._bytes += len(entry) + 1
        self._passing += not record.failing
        self._kept[node_id] = entry

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take in what a worker of pytest-xdist recorded."""
        self._kept.update(getattr(node, "workeroutput", {}).get("kodkod_trace", {}))

    def pytest_sessionfinish(self, session: Any) -> None:
        """Write the records, or hand them to the process that started this worker."""
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["kodkod_trace"] = self._kept
            return
        draft = self._file.with_suffix(".part")
        draft.write_text('{"tests":{' + ",".join(self._kept.values()) + "}}", encoding="utf-8")
        draft.replace(self._file)


def pytest_configure(config: Any) -> None:
    """Take part where the environment asks for it."""
    file, root = os.environ.get("_KODKOD_TRACE_FILE"), os.environ.get("_KODKOD_TRACE_ROOT")
    if file and root:
        max_bytes = int(os.environ.get("_KODKOD_TRACE_MAX_BYTES", str(16 * 1024**2)))
        config.pluginmanager.register(LinesPerTest(file, root, max_bytes), "kodkod-lines-per-test")
