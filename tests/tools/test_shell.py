"""shell: one command, long output, time-outs, background jobs; and that nothing outlives its call."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path

import pytest

from kodkod_engine.messages import ToolCall
from kodkod_sandbox.base import BoxOptions, Channel
from kodkod_sandbox.errors import SandboxLost
from kodkod_tools.base import ErrorCode, ToolContext, ToolOutput
from kodkod_tools.config import ToolsConfig
from kodkod_tools.output import OutputKeeper, keep_text
from kodkod_tools.registry import run_call


async def test_output_and_exit_code_are_shown(call) -> None:
    result = await call("shell", command="echo out; echo err >&2; exit 3")
    assert sorted(result.for_model.splitlines()[:2]) == ["err", "out"]
    assert result.for_model.splitlines()[2].startswith("[exit code 3, 0.")
    assert result.facts["exit_code"] == 3
    assert result.error is None
    assert (await call("shell", command="true")).for_model.startswith("(no output)\n[exit code 0,")


async def test_output_streams_as_it_comes(context: ToolContext) -> None:
    call = ToolCall(id="1", name="shell", arguments={"command": "echo one; sleep 0.3; echo two"})
    seen = [item.text async for item in run_call(call, context) if isinstance(item, ToolOutput)]
    assert seen == ["one\n", "two\n"]


async def test_long_output_is_cut_in_the_middle_and_kept_whole(call) -> None:
    result = await call("shell", command="seq 1 100000")
    assert result.for_model.startswith("1\n2\n3\n")
    assert "\n100000\n[exit code 0" in result.for_model
    assert "characters" in result.for_model
    assert isinstance(result.for_log, Path)
    assert result.for_log.read_text().splitlines() == [str(n) for n in range(1, 100_001)]
    assert str(result.for_log) in result.for_model


async def test_a_command_out_of_time_is_told_and_ended(call, tree: Path) -> None:
    result = await call("shell", command="echo begun; (sleep 30; touch late) & sleep 30", timeout_s="2")
    assert result.error is ErrorCode.TIMEOUT
    assert "begun" in result.for_model
    assert "stopped after 2 s" in result.for_model
    assert result.facts["timed_out"] is True


async def test_odd_bytes_and_control_signs_are_harmless(call) -> None:
    result = await call("shell", command=r"printf '\xff\x00\033[31mred\033[0m 1%%\r99%%\n'")
    assert result.for_model.splitlines()[0] == "99%"


async def test_a_cancelled_call_kills_its_command(context: ToolContext, tree: Path) -> None:
    call = ToolCall(id="1", name="shell", arguments={"command": "echo $$ > pid; sleep 60"})

    async def consume() -> None:
        async for _ in run_call(call, context):
            pass

    task = asyncio.create_task(consume())
    assert await until(lambda: names_process(tree / "pid"))
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert await until(lambda: not alive(tree / "pid"))


async def test_closing_the_stream_early_kills_the_command(context: ToolContext, tree: Path) -> None:
    call = ToolCall(id="1", name="shell", arguments={"command": "echo $$ > pid; echo go; sleep 60"})
    async with contextlib.aclosing(run_call(call, context)) as items:
        async for _ in items:
            break
    assert await until(lambda: not alive(tree / "pid"))


async def test_a_background_job_is_started_read_and_awaited(call, tree: Path) -> None:
    goes_on = "until [ -e seen ]; do sleep 0.05; done"
    started = await call("shell", command=f"echo one; {goes_on}; echo two; exit 4", background=True)
    assert started.for_model == "one\n[job j1 is running: read on with job=j1]"
    assert started.facts == {"job": "j1", "running": True}
    (tree / "seen").touch()
    done = await call("shell", job="j1", timeout_s=20)
    assert done.for_model == "two\n[job j1 ended: exit code 4]"
    assert done.facts == {"job": "j1", "running": False, "exit_code": 4, "timed_out": False}
    again = await call("shell", job="j1")
    assert again.for_model.startswith("(no new output)")


async def test_a_job_can_be_killed(call, tree: Path) -> None:
    await call("shell", command="echo $$ > pid; sleep 60", background=True)
    assert await until(lambda: names_process(tree / "pid"))
    result = await call("shell", job="j1", kill=True)
    assert "job j1 was ended" in result.for_model
    assert await until(lambda: not alive(tree / "pid"))
    assert "job j1 was ended" in (await call("shell", job="j1")).for_model


async def test_jobs_die_with_their_context(context: ToolContext, tree: Path, call) -> None:
    await call("shell", command="echo $$ > pid; sleep 60", background=True)
    assert await until(lambda: names_process(tree / "pid"))
    assert alive(tree / "pid")
    await context.close()
    assert await until(lambda: not alive(tree / "pid"))


async def test_a_job_drowning_in_output_stays_small(call) -> None:
    await call("shell", command="seq 1 300000; sleep 60", background=True)
    result = await call("shell", job="j1")
    assert len(result.for_model) < 20_000
    first = await call("shell", job="j1", kill=True)
    assert isinstance(first.for_log, Path)
    assert first.for_log.read_text().startswith("1\n2\n")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({}, "either command"),
        ({"command": "x", "job": "j1"}, "not both"),
        ({"command": "x", "kill": True}, "kill needs job"),
        ({"job": "j1", "background": True}, "background"),
        ({"command": ""}, "command"),
        ({"command": "x", "timeout_s": 0}, "timeout_s"),
        ({"command": "x", "timeout": 5}, "timeout: is no argument"),
    ],
)
async def test_bad_arguments_are_told_by_field(arguments: dict[str, object], word: str, call) -> None:
    result = await call("shell", **arguments)
    assert result.error is ErrorCode.BAD_ARGUMENTS
    assert word in result.for_model


async def test_an_unknown_job_is_told(call) -> None:
    result = await call("shell", job="j7")
    assert result.error is ErrorCode.NOT_FOUND
    assert "none was started" in result.for_model


class TestPatience:
    @pytest.fixture
    def config(self) -> ToolsConfig:
        return ToolsConfig(job_first_look_s=20)

    async def test_a_job_that_ends_at_once_says_so(self, call) -> None:
        result = await call("shell", command="echo no >&2; exit 1", background=True)
        assert result.for_model == "no\n[job j1 ended: exit code 1]"


class TestFewJobs:
    @pytest.fixture
    def config(self) -> ToolsConfig:
        return ToolsConfig(max_jobs=1, job_first_look_s=0)

    async def test_too_many_jobs_are_refused(self, call) -> None:
        await call("shell", command="sleep 60", background=True)
        result = await call("shell", command="sleep 60", background=True)
        assert result.error is ErrorCode.FAILED
        assert "j1" in result.for_model


class LostBox:
    """A box that fails when it is asked for anything."""

    name = "lost"

    def __init__(self, tree: Path) -> None:
        self.options = BoxOptions(tree)

    async def exec_stream(self, command: object, **_: object):
        raise SandboxLost("the box is gone")
        yield


@pytest.mark.parametrize("arguments", [{"command": "true"}, {"command": "true", "background": True}])
async def test_a_fault_of_the_box_is_no_result(arguments: dict[str, object], tree: Path, tmp_path: Path) -> None:
    async with ToolContext(LostBox(tree), tree, ToolsConfig(), tmp_path / "logs") as context:
        with pytest.raises(SandboxLost):
            async for _ in run_call(ToolCall(id="1", name="shell", arguments=arguments), context):
                pass


def test_the_keeper_writes_no_more_than_it_may(tmp_path: Path) -> None:
    keeper = OutputKeeper(tmp_path, "x", max_chars=1_000, max_bytes=5_000)
    for _ in range(1_000):
        keeper.add(Channel.STDOUT, b"0123456789")
    kept = keeper.kept()
    keeper.close()
    assert isinstance(kept.for_log, Path)
    assert kept.for_log.stat().st_size == 5_000
    assert len(kept.for_model) <= 1_000
    assert "10,000 bytes, the first 5,000 in" in kept.for_model


def test_kept_files_count_up(tmp_path: Path) -> None:
    paths = [keep_text("x" * 200, tmp_path / "logs", "a", 150).for_log for _ in range(2)]
    assert [Path(path).name for path in paths] == ["a-0001.txt", "a-0002.txt"]
    assert keep_text("short", tmp_path, "a", 100).for_log == "short"


def names_process(pid_file: Path) -> bool:
    """A file is there before what is written into it."""
    return pid_file.exists() and pid_file.read_text().endswith("\n")


def alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text()), 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid_file.read_text().strip()}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"


async def until(condition) -> bool:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if condition():
            return True
        await asyncio.sleep(0.02)
    return False
