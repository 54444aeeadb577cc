"""The command as a process of its own: signals, closed pipes, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from kodkod_agent.config import AgentConfig
from kodkod_app.bootstrap import open_model
from kodkod_app.headless import run_headless
from kodkod_app.report_text import TextRenderer
from kodkod_app.session_opening import RunOptions
from kodkod_app.settings import Settings
from kodkod_engine.api import GenerationRequest
from kodkod_engine.errors import EngineClosed
from kodkod_sandbox.choose import SandboxKind
from kodkod_sandbox.none import NoSandbox

from .conftest import FAULTY, FINISH, MEND, shell

SLOW_S = 3_417
"""A sleep that no other process has."""


@pytest.fixture
def start(project, record):
    """Starts a run whose command never ends; comes back when that runs."""
    started = []

    def begin(*arguments, command=f"sleep {SLOW_S}"):
        words = [sys.executable, "-m", "kodkod_app", "fix", "-C", project, "-m", record(shell(command)), "--issue", "x"]
        process = subprocess.Popen([*words, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        wait_for(lambda: sleeping(process.pid))
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def sleeping(pid=None):
    """The commands that run, below a process or anywhere."""
    among = psutil.Process(pid).children(recursive=True) if pid else psutil.process_iter()
    found = []
    for process in among:
        try:
            if process.cmdline() == ["sleep", str(SLOW_S)]:
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.05)


BYPASS = ("--sandbox", "none", "--permission-mode", "bypassPermissions")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_in_order(start, project, number):
    process = start(*BYPASS, "--output-format", "json")
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    entry = json.loads(out)
    assert (entry["status"], entry["exit_code"]) == ("interrupted", 130)
    assert "Traceback" not in err
    wait_for(lambda: not sleeping())
    assert (project / "calc.py").read_text() == FAULTY


def test_in_a_box_too(start):
    process = start("--sandbox", "landlock")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "ended         interrupted" in out
    assert "kodkod fix -r " in out
    wait_for(lambda: not sleeping())


def test_a_second_sigint_ends_at_once(start):
    process = start(*BYPASS, command=f"trap '' TERM INT; sleep {SLOW_S}")
    os.kill(process.pid, signal.SIGSTOP)  # so that both are there when it wakes
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == 130
    wait_for(lambda: not sleeping())


def test_a_reader_that_leaves_is_no_traceback(project, record):
    words = [sys.executable, "-m", "kodkod_app", "fix", "-C", project, "-m", record(shell("true")), "--issue", "x"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*words, *BYPASS, "--output-format", "stream-json"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.fixture
def closed(monkeypatch):
    """The boxes that were closed."""
    found = []
    close = NoSandbox.close

    async def note(box):
        found.append(box)
        await close(box)

    monkeypatch.setattr(NoSandbox, "close", note)
    return found


def options(project, **changes):
    agent = AgentConfig(baseline_tests=False, verify=False)
    given = {"settings": Settings(sandbox=SandboxKind.NONE, agent=agent), "prompt": "mend it"}
    return RunOptions(project, **{**given, **changes})


def test_a_signal_while_the_model_is_loaded_breaks_it_off(project, closed):
    before = signal.getsignal(signal.SIGINT)

    def load(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        run_headless(options(project), TextRenderer(), open_model=load)
    assert len(closed) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_model_may_be_given_and_everything_is_closed_whatever_happens(project, record, closed):
    engines = []

    def load(_name, config):
        model = open_model(record(MEND, FINISH), config)
        engines.append(model.engine)
        return model

    assert run_headless(options(project), TextRenderer(), open_model=load) == 3

    class Broken(TextRenderer):
        def show(self, event):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_headless(options(project), Broken(), open_model=load)
    assert len(closed) == len(engines) == 2
    for engine in engines:
        with pytest.raises(EngineClosed):
            engine.generate(GenerationRequest((1,)))
