"""Starting and calling off the launcher: asyncio must hear of each one's end from its own watcher, and of each once."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path

import pytest

from kodkod_sandbox import process
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.errors import SandboxError, SandboxLost
from kodkod_sandbox.none import NoSandbox


async def test_a_launcher_that_ends_while_its_start_is_called_off_is_not_asked_after_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    box = NoSandbox(BoxOptions(tmp_path))
    await box.start()
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with caplog.at_level(logging.WARNING, logger="asyncio"):
        for number in range(200):
            task = asyncio.create_task(box.exec("true"))
            for _ in range(number % 10):
                await asyncio.sleep(0)
            time.sleep(0.002 * (number % 3))  # the loop is held up while the launcher ends
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert caplog.messages == []
    await box.close()


async def test_a_box_closed_while_a_command_starts_ends_it(tmp_path: Path) -> None:
    for turns in range(8):
        box = NoSandbox(BoxOptions(tmp_path))
        await box.start()
        task = asyncio.create_task(box.exec("sleep 60"))
        for _ in range(turns):
            await asyncio.sleep(0)
        await box.close()
        with pytest.raises(SandboxError, match=r"box was closed|not running"):
            await asyncio.wait_for(task, 30)


async def test_a_cancel_in_the_moment_a_command_ends_is_heeded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = NoSandbox(BoxOptions(tmp_path))
    await box.start()
    drained = process._Run._drained

    async def cancelled_as_it_ends(run: process._Run, launcher: asyncio.subprocess.Process) -> None:
        await drained(run, launcher)
        asyncio.get_running_loop().call_soon(task.cancel)

    monkeypatch.setattr(process._Run, "_drained", cancelled_as_it_ends)
    task = asyncio.create_task(_execute_and_stay(box))
    done, _ = await asyncio.wait({task}, timeout=20)
    assert done
    assert task.cancelled()
    await box.close()


async def _execute_and_stay(box: NoSandbox) -> None:
    await box.exec("true")
    await asyncio.sleep(60)


async def test_a_launcher_that_does_not_end_its_box_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    box = NoSandbox(BoxOptions(tmp_path))
    await box.start()
    stuck = tmp_path / "stuck.py"
    stuck.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(process, "_LAUNCHER", str(stuck))
    monkeypatch.setattr(process, "_GRACE_S", 0.2)
    with caplog.at_level(logging.WARNING, logger="asyncio"), pytest.raises(SandboxLost, match="box was closed"):
        await asyncio.wait_for(_call_off_soon(box), 30)
    assert caplog.messages == []


async def _call_off_soon(box: NoSandbox) -> None:
    task = asyncio.create_task(box.exec("true"))
    await asyncio.sleep(0.5)
    await box.close()
    await task
