"""Runs pytest over and over in one tree, each time in a fork of this process, which has everything imported already.

A script for any Python that has pytest; it imports nothing of ours. Its one argument is a JSON object (`tree`,
`imports`, `plugin`, `options`, `max_memory_bytes`), and every line it reads is another (`tests`, `left_out`, `report`,
`trace`, `seconds`, `log`, `timeout_s`, `max_test_s`, `keep_bytecode`). For each it writes a line: {"exit_code",
"duration_s", "timed_out"}.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from _pytest.config import default_plugins

_MAX_FILE_BYTES = 64 * 1024**2
_OFTEN_IMPORTED = ("hypothesis", "unittest.mock", "doctest", "decimal", "datetime", "email", "xml.etree.ElementTree")
_CRASHED = 70


class TooSlow(BaseException):
    """A test's time is over; no `Exception`, which it might catch."""


class Bookkeeping:
    """Leaves out tests that are not wanted, ends slow ones, and writes down how long each took."""

    def __init__(self, left_out: frozenset[str], max_test_s: float | None, seconds: str) -> None:
        self._left_out = left_out
        self._max_test_s = max_test_s or 0.0
        self._file = Path(seconds)
        self._seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        """Deselect."""
        unwanted = [item for item in items if item.nodeid in self._left_out]
        if unwanted:
            config.hook.pytest_deselected(items=unwanted)
            items[:] = [item for item in items if item.nodeid not in self._left_out]

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self) -> Generator[None, Any, None]:
        """Wind up the clock; 0 is no limit."""
        signal.signal(signal.SIGALRM, _end_test)
        signal.setitimer(signal.ITIMER_REAL, self._max_test_s)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add up the phases."""
        self._seconds[report.nodeid] = self._seconds.get(report.nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        """Write."""
        self._file.write_text(json.dumps(self._seconds), encoding="utf-8")


def _end_test(_number: int, _frame: object) -> None:
    raise TooSlow


def main() -> None:
    """Serve until the input ends."""
    settings = json.loads(sys.argv[1])
    plugin = _loaded(settings["plugin"])
    _warm_up()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    for line in sys.stdin:
        answers.write(json.dumps(_served(settings, plugin, json.loads(line))) + "\n")
        answers.flush()


def _loaded(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("kodkod_locate", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _warm_up() -> None:
    for name in [*(f"_pytest.{name}" for name in default_plugins), *_OFTEN_IMPORTED]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)  # runs are short: memory may grow


def _served(settings: dict[str, Any], plugin: ModuleType, order: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _run(settings, plugin, order)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # here and in the child: whoever comes first
    handle = os.pidfd_open(child)
    ended, _, _ = select.select([handle], [], [], order["timeout_s"])
    os.close(handle)
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)  # what the tests left running, too
    _, status = os.waitpid(child, 0)
    exit_code = os.waitstatus_to_exitcode(status)
    return {"exit_code": exit_code, "duration_s": time.monotonic() - started, "timed_out": not ended}


def _run(settings: dict[str, Any], plugin: ModuleType, order: dict[str, Any]) -> None:
    """In the child; never returns."""
    code = _CRASHED
    try:
        os.setpgid(0, 0)
        _limit(settings["max_memory_bytes"])
        _redirect(order["log"])
        os.chdir(settings["tree"])
        sys.path[:0] = settings["imports"]
        sys.dont_write_bytecode = not order["keep_bytecode"]
        os.environ |= {"_KODKOD_TRACE_FILE": order["trace"], "_KODKOD_TRACE_ROOT": settings["tree"]}
        options = [*settings["options"], f"--junitxml={order['report']}", *order["tests"]]
        left_out = Bookkeeping(frozenset(order["left_out"]), order["max_test_s"], order["seconds"])
        code = int(pytest.main(options, plugins=[plugin, left_out]))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - a fork must never go on as its parent would
        traceback.print_exc()
    finally:
        os._exit(code)


def _limit(max_memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _redirect(log: str) -> None:
    nowhere = os.open(os.devnull, os.O_RDONLY)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number, target in ((0, nowhere), (1, file), (2, file)):
        os.dup2(target, number)


if __name__ == "__main__":
    main()
