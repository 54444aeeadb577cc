"""A program with an engine in it ends when it is told to, in the middle of an answer too, with close() or without."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIMIT_S = 2.0
"""From the signal to the end of Python's exit handlers, of which the engine's is one."""
TEARDOWN_LIMIT_S = 15.0
"""From there to the end of the process: on a busy machine torch alone needs more than a second for it."""
HOME = Path(__file__).parents[3] / "engine"

PROGRAM = """
import asyncio, atexit, signal, sys, threading
atexit.register(print, "the handlers have run", flush=True)  # the first to register is the last to run
from kodkod_engine import load_engine
from kodkod_engine.api import GenerationRequest, SamplingParams

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have it ignored
engine = load_engine({folder!r}, threads=1)
sampling = SamplingParams(max_tokens=30_000, ignore_eos=True)

async def answer():
    seen = 0
    async for chunk in engine.generate(GenerationRequest(tuple(range(30, 60)), sampling)):
        seen += len(chunk.token_ids)
        if seen == 3:
            print("in the middle", flush=True)
            {in_the_middle}

{main}
"""

CLOSING = """
try:
    asyncio.run(answer())
except KeyboardInterrupt:
    engine.close()
    threads = [thread.name for thread in threading.enumerate()]
    sys.exit(130 if threads == ["MainThread"] else f"left behind: {threads}")
"""

NOT_CLOSING = """
try:
    asyncio.run(answer())
except KeyboardInterrupt:
    sys.exit(130)
"""

LEAVING_ON_TERM = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
asyncio.run(answer())
"""


def start(folder: Path, main: str, in_the_middle: str = "pass") -> subprocess.Popen[str]:
    """A program that has said that it is in the middle of an answer."""
    program = PROGRAM.format(folder=str(folder), main=main, in_the_middle=in_the_middle)
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(HOME), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in the middle\n"
    return process


def assert_it_ends(process: subprocess.Popen[str], code: int) -> None:
    """Soon, with this code, and without a complaint: a process that is aborted makes one."""
    begin = time.monotonic()
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        seconds = time.monotonic() - begin
        _, complaint = process.communicate(timeout=TEARDOWN_LIMIT_S)
    finally:
        process.kill()
    assert seconds < LIMIT_S
    assert (said, process.returncode, complaint) == ("the handlers have run\n", code, "")


@pytest.mark.parametrize("main", [CLOSING, NOT_CLOSING], ids=["closing", "not closing"])
def test_ctrl_c_in_the_middle_of_an_answer(tiny_folder, main):
    process = start(tiny_folder, main)
    process.send_signal(signal.SIGINT)
    assert_it_ends(process, 130)


def test_a_request_to_end_that_becomes_an_exit_without_close(tiny_folder):
    process = start(tiny_folder, LEAVING_ON_TERM)
    process.send_signal(signal.SIGTERM)
    assert_it_ends(process, 143)


def test_the_end_of_the_program_in_the_middle_of_an_answer(tiny_folder):
    main = """
stream = engine.generate(GenerationRequest((1, 2, 3), sampling))
asyncio.run(answer())
"""
    assert_it_ends(start(tiny_folder, main, in_the_middle="return"), 0)
