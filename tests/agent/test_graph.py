"""The graph as it is wired, and what is left of a run that is killed at any moment."""

import os
import random
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from kodkod_agent.checkpoint import PrunedSaver
from kodkod_agent.config import AgentConfig
from kodkod_agent.graph import NODES
from kodkod_agent.journal import Journal
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.session import Session
from kodkod_agent.session_folder import SessionFolder, list_sessions
from kodkod_agent.state import Node, Status
from kodkod_agent.trajectory import read
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, ToolMessage

from .conftest import FINISH, MEND, MENDED, all_events, call, git, says

LOOK = says("", call("view", path="calc.py"))
NUM_EDITS = 6
WHOLE = "".join(f"line {n}\n" for n in range(NUM_EDITS)) + "end\n"


def test_every_node_has_a_function():
    assert set(NODES) == set(Node)


class Victim:
    """Starts runs, and kills them."""

    def __init__(self, folder: Path, *, ask: bool = False) -> None:
        self.folder, self.project, self.root = folder, folder / "project", folder / "sessions"
        self.project.mkdir()
        (self.project / "log.txt").write_text("end\n")
        git(self.project, "init", "-q")
        write_byte_tokenizer(folder)
        script = Path(__file__).with_name("killed_run.py")
        command = [sys.executable, str(script), str(folder), str(self.project), str(self.root), "ask" if ask else "go"]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self.line() == "ready"

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stdin.close()
        self.server.wait(20)
        self.server.stdout.close()

    def line(self) -> str:
        return self.server.stdout.readline().strip()

    def start(self) -> int:
        """Begin, or go on; the child's process id."""
        self.server.stdin.write("run\n")
        return int(self.line())

    def run(self, kill_after_s: float) -> int:
        """How the child ended: -9 when it was killed before its end."""
        child = self.start()
        ended, _, _ = select.select([self.server.stdout], [], [], kill_after_s)
        if not ended:
            with suppress(ProcessLookupError):  # it may end in this very moment
                os.kill(child, signal.SIGKILL)
        return int(self.line())

    def check(self) -> None:
        """Every step was done, and none twice."""
        assert (self.project / "log.txt").read_text() == WHOLE
        (info,) = list_sessions(self.root)
        folder = SessionFolder.find(self.root, info.id)
        log = LedgerLog(folder.ledger)
        view = log.at(Tokenizer.from_folder(self.folder), log.mark).view()
        turns = [message.text for message in view if isinstance(message, AssistantMessage)]
        results = [message.text for message in view if isinstance(message, ToolMessage)]
        assert turns == [f"Turn {n}." for n in range(NUM_EDITS + 1)]
        assert len(results) == len(turns)
        assert sum(text.startswith("edited log.txt") for text in results) == NUM_EDITS - 1
        assert [record.step for record in Journal(folder.journal).steps] == list(range(NUM_EDITS + 2))
        assert read(folder.trajectory).torn_bytes == 0


def outlive(victim: Victim, delays: list[float]) -> int:
    """Kill after each delay, then let it end; the number of runs that were really killed."""
    kills = 0
    for delay in delays:
        code = victim.run(delay)
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        if code == 0:
            break
    while victim.run(60) != 0:
        pytest.fail("a run that nobody killed did not end well")
    victim.check()
    return kills


def length_of_a_run(folder: Path) -> float:
    with Victim(folder) as victim:
        started = time.monotonic()
        assert victim.run(60) == 0
        victim.check()
        return time.monotonic() - started


def test_killed_at_several_moments_nothing_is_lost_or_done_twice(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole_s = length_of_a_run(tmp_path / "a")
    with Victim(tmp_path / "b") as victim:
        assert outlive(victim, [whole_s * share for share in (0.3, 0.5, 0.4, 0.6, 0.35)]) >= 1


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_killed_at_fifty_random_moments(tmp_path):
    chance = random.Random(7)
    (tmp_path / "a").mkdir()
    whole_s = length_of_a_run(tmp_path / "a")
    kills = 0
    for number in range(200):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        with Victim(folder) as victim:
            kills += outlive(victim, [chance.uniform(0.05, 1.0) * whole_s for _ in range(8)])
        if kills >= 50:
            break
    assert kills >= 50


@pytest.mark.parametrize("follower", [Node.MODEL, Node.GATE, Node.TOOLS, Node.PREPARE, Node.VERIFY, Node.FINISH, ""])
async def test_a_stop_between_a_nodes_end_and_its_checkpoint(setup_of, project, root, monkeypatch, follower):
    """By then the node's update is written, but the checkpoint that takes it in is not."""
    stops = iter([True])
    whole = PrunedSaver.aput

    async def stopping(self, config, checkpoint, metadata, new_versions):
        values = checkpoint["channel_values"]
        if values.get("step", 0) >= 2 and values["next"] == follower and next(stops, False):
            raise OSError("the disk is full")
        return await whole(self, config, checkpoint, metadata, new_versions)

    monkeypatch.setattr(PrunedSaver, "aput", stopping)
    grow = call("edit", path="calc.py", old="def add", new="# grown\ndef add")
    async with await Session.create(root, setup_of([says("", grow), says("", MEND), says("", FINISH)])) as session:
        with pytest.raises(OSError, match="disk is full"):
            await all_events(session, "go")
        assert await session.is_unfinished()
        *_, end = [event async for event in session.proceed()]
        assert (end.report.status, end.report.turns) == (Status.DONE, 3)
        assert not session.ledger.pending_calls
    assert (project / "calc.py").read_text() == "# grown\n" + MENDED


async def test_an_end_that_cannot_be_written_is_come_to_again(setup_of, root, monkeypatch):
    """What the node had put into the conversation by then is read anew from the disk."""
    stops = iter([True])
    whole = LedgerLog.sync

    def stopping(self, ledger):
        if not ledger.pending_calls and len(ledger.view()) > 3 and next(stops, False):
            raise OSError("the disk is full")
        return whole(self, ledger)

    config = AgentConfig(baseline_tests=False, max_malformed_calls=1, constraints=False)
    setup = setup_of([says("", call("explode")), LOOK], config=config)
    async with await Session.create(root, setup) as session:
        monkeypatch.setattr(LedgerLog, "sync", stopping)
        with pytest.raises(OSError, match="disk is full"):
            await all_events(session, "go")
        *_, end = [event async for event in session.proceed()]
        assert (end.report.status, end.report.turns) == (Status.LIMIT, 1)


async def test_a_clock_that_is_set_back_does_not_take_the_session_back(setup_of, project, root, monkeypatch):
    """Ids of checkpoints begin with the time. The second process has a clock of an hour ago."""
    async with await Session.create(root, setup_of([LOOK, says("", MEND), says("", FINISH)])) as session:
        await all_events(session, "mend add")
        session_id, before = session.id, len(session.ledger)
    an_hour_ago = time.time_ns() - 3_600_000_000_000
    monkeypatch.setattr("langgraph.checkpoint.base.id._last_v6_timestamp", None)
    monkeypatch.setattr("langgraph.checkpoint.base.id.time.time_ns", lambda: an_hour_ago)
    for number in range(3):
        grow = call("write", path=f"more{number}.py", content="")
        setup = setup_of(
            [says("", grow), LOOK, LOOK, says("", FINISH)], config=AgentConfig(baseline_tests=False, checkpoints_kept=4)
        )
        async with await Session.resume(root, session_id, setup) as session:
            assert len(session.ledger) == before
            assert not await session.is_unfinished()
            *_, end = await all_events(session, "and a file")
            assert (end.report.status, end.report.turns) == (Status.DONE, 4)
            assert f"more{number}.py" in end.report.diff
            before = len(session.ledger)
    assert (project / "calc.py").read_text() == MENDED


def test_an_open_question_is_asked_again_by_the_next_process(tmp_path):
    with Victim(tmp_path, ask=True) as victim:
        for _ in range(2):
            child = victim.start()
            assert victim.line() == "asked"
            os.kill(child, signal.SIGKILL)
            assert int(victim.line()) == -signal.SIGKILL
    assert (victim.project / "log.txt").read_text() == "end\n"
