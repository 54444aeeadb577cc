"""The fixed prompt, instructions, bounded results, and the ledger on disk."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_agent import trajectory
from kodkod_agent.checkpoint import open_saver
from kodkod_agent.compaction import open_files
from kodkod_agent.config import AgentConfig
from kodkod_agent.context import Budget, fit_tokens, new_instructions, prompt, read_instructions
from kodkod_agent.errors import SessionDamaged
from kodkod_agent.journal import IntentRecord, Journal, Outcome, OutcomeRecord, RewindRecord, SnapshotRecord, StepRecord
from kodkod_agent.ledger_log import LedgerLog
from kodkod_engine.chat.declare_block import tools_pieces
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.messages import ToolMessage, UserMessage
from kodkod_tools import registry
from kodkod_tools.base import ToolContext
from kodkod_tools.config import ToolsConfig

from .conftest import MEND, call, close_folder, says, turn_ids

MAX_FIXED_CHARS = 12_000
"""At four characters to a token: 3,000 tokens."""


@pytest.fixture
def tools(sandbox, project, tmp_path):
    return ToolContext(sandbox, project, ToolsConfig(), tmp_path / "logs")


def test_the_fixed_prompt_with_all_tools_is_small():
    fixed = "".join(tools_pieces(registry.specs())) + prompt("system", work_tree="/home/somebody/a/project")
    assert len(fixed) < MAX_FIXED_CHARS
    assert all(tool.name in fixed for tool in registry.specs())


@given(text=st.text(max_size=300), max_tokens=st.integers(0, 80))
@settings(max_examples=60, deadline=None)
def test_a_text_made_to_fit_has_at_most_so_many_tokens(tokenizer, text, max_tokens):
    fitted = fit_tokens(tokenizer, text, max_tokens)
    assert len(tokenizer.encode_text(fitted)) <= max_tokens
    if len(tokenizer.encode_text(text)) <= max_tokens:
        assert fitted == text


@given(context=st.integers(2_000, 300_000), used=st.integers(0, 300_000))
@settings(max_examples=60, deadline=None)
def test_results_of_one_turn_never_overflow_the_context(context, used):
    config = AgentConfig()

    class Engine:
        max_context_tokens = context

    class Ledger:
        length = min(used, context)

        def __len__(self):
            return self.length

    budget, ledger = Budget.of(config, Engine()), Ledger()
    for _ in range(20):
        room = budget.room_for_result(ledger)
        assert 0 <= room <= budget.result
        ledger.length += room
        assert ledger.length <= max(min(used, context), context - 2 * budget.summary)


def test_instructions_are_found_on_the_way_to_a_file(tools, project):
    (project / "a" / "b").mkdir(parents=True)
    for folder in (".", "a", "a/b"):
        (project / folder / "AGENTS.md").write_text(f"of {folder}")
    found = new_instructions(tools, ["a/b/new.py"], [], 1_000)
    assert found == [("AGENTS.md", "of ."), ("a/AGENTS.md", "of a"), ("a/b/AGENTS.md", "of a/b")]
    assert new_instructions(tools, ["a/x.py"], ["AGENTS.md", "a/AGENTS.md"], 1_000) == []
    assert new_instructions(tools, ["../elsewhere", "\0"], [], 1_000) == []


def test_instructions_are_bounded_and_never_read_through_a_link_out_of_the_tree(tools, project, tmp_path):
    (project / "AGENTS.md").write_text("long " * 10_000)
    assert len(read_instructions(tools, PurePosixPath("."), 500)) <= 500
    (tmp_path / "secret").write_text("secret")
    (project / "AGENTS.md").unlink()
    (project / "AGENTS.md").symlink_to(tmp_path / "secret")
    assert read_instructions(tools, PurePosixPath("."), 500) is None


def conversation(tokenizer):
    ledger = TokenLedger.open(tokenizer, registry.specs(), "system")
    ledger.append_user("first")
    for message in (says("Look", call("view", path="calc.py")), says("", MEND, call("view", path="b.py"))):
        ledger.begin_turn()
        ledger.append_generated(turn_ids(tokenizer, message))
        ledger.append_tool_results([ToolMessage(call_id=c.id, text="ok") for c in ledger.pending_calls])
    return ledger


def test_no_instructions_lie_where_nobody_can_look(tools, project, monkeypatch):
    (project / "AGENTS.md").write_text("Be kind.")
    (project / "data").mkdir()
    close_folder(project / "data", monkeypatch)
    touched = ["calc.py", "data", "data/a.py", "n" * 300, "n" * 300 + "/a.py", "a\0b"]
    assert new_instructions(tools, touched, [], 100) == [("AGENTS.md", "Be kind.")]


def test_open_files_are_the_last_named(tokenizer):
    assert open_files(conversation(tokenizer)) == ["b.py", "calc.py"]


def test_a_ledger_comes_back_from_its_log_at_every_mark(tokenizer, tmp_path):
    log = LedgerLog(tmp_path / "ledger.jsonl")
    ledger = TokenLedger.open(tokenizer, registry.specs(), "system")
    marks = {log.sync(ledger): ledger.state()}
    for text in ("one", "two", "three"):
        ledger.append_user(text)
        ledger.begin_turn()
        ledger.append_generated(turn_ids(tokenizer, says(text)))
        marks[log.sync(ledger)] = ledger.state()
    rebuilt = ledger.rebuild([UserMessage(text="one")])
    marks[log.sync(rebuilt)] = rebuilt.state()
    *_, before, after = sorted(marks)
    assert [log.before_rebuilds(mark) for mark in (before, after)] == [[], [before]]
    twice = rebuilt.rebuild([UserMessage(text="two")])
    marks[log.sync(twice)] = twice.state()
    assert log.before_rebuilds(log.mark) == [before, after]
    earlier = log.at(tokenizer, sorted(marks)[1])
    branch = earlier.fork(len(earlier))
    marks[log.sync(branch)] = branch.state()
    branch.append_user("after the branch")
    marks[log.sync(branch)] = branch.state()
    assert log.before_rebuilds(log.mark) == []  # it left before the first of them
    for mark in sorted(marks, reverse=True):
        assert LedgerLog(tmp_path / "ledger.jsonl").at(tokenizer, mark).state() == marks[mark]
    assert log.sync(branch) == max(marks)


def test_what_lies_behind_the_mark_is_dropped_unless_it_is_a_whole_turn(tokenizer, tmp_path):
    log = LedgerLog(tmp_path / "ledger.jsonl")
    ledger = TokenLedger.open(tokenizer, registry.specs(), "system")
    ledger.append_user("one")
    mark = log.sync(ledger)
    ledger.begin_turn()
    ledger.append_generated(turn_ids(tokenizer, says("Done", MEND)))
    whole = log.sync(ledger)
    again = LedgerLog(tmp_path / "ledger.jsonl")
    assert again.turn_behind(tokenizer, mark).state() == ledger.state()
    assert again.turn_behind(tokenizer, whole) is None
    ledger.append_tool_results([ToolMessage(call_id="call_0", text="ok")])
    log.sync(ledger)
    assert LedgerLog(tmp_path / "ledger.jsonl").turn_behind(tokenizer, mark) is None
    assert log.mark == mark


@pytest.mark.parametrize("looks_behind", [True, False])
def test_what_was_dropped_is_not_taken_for_written(tokenizer, tmp_path, looks_behind):
    """An end that was written and never became a checkpoint, and a turn in the place of it, in the same process."""
    log = LedgerLog(tmp_path / "ledger.jsonl")
    ledger = TokenLedger.open(tokenizer, registry.specs(), "system")
    ledger.append_user("one")
    mark = log.sync(ledger)
    ledger.begin_turn()
    ledger.append_generated(turn_ids(tokenizer, says("Done")))
    ledger.append_notice("interrupted")
    log.sync(ledger)
    ledger = log.load(tokenizer, mark, cut=False)
    if looks_behind:
        assert log.turn_behind(tokenizer, mark) is None
    ledger.begin_turn()
    ledger.append_generated(turn_ids(tokenizer, says("Something else, and more of it", MEND)))
    after = log.sync(ledger)
    assert LedgerLog(tmp_path / "ledger.jsonl").load(tokenizer, after).state() == ledger.state()


def test_a_damaged_ledger_is_said_to_be(tokenizer, tmp_path):
    path = tmp_path / "ledger.jsonl"
    log = LedgerLog(path)
    mark = log.sync(TokenLedger.open(tokenizer, registry.specs(), "system"))
    with pytest.raises(SessionDamaged, match="shorter"):
        log.load(tokenizer, mark + 1)
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(SessionDamaged, match="cannot be read"):
        log.load(tokenizer, mark)


def test_what_is_written_behind_a_torn_line_can_be_read(tokenizer, tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = TokenLedger.open(tokenizer, registry.specs(), "system")
    mark = LedgerLog(path).sync(ledger)
    ledger.append_user("hello")
    LedgerLog(path).sync(ledger)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 10)
    log = LedgerLog(path)
    branch = log.at(tokenizer, mark).fork(len(log.at(tokenizer, mark)))
    after = log.sync(branch)
    assert LedgerLog(path).load(tokenizer, after).token_ids == branch.token_ids


@pytest.mark.parametrize("name", ["journal.jsonl", "trajectory.jsonl"])
def test_what_the_system_does_not_let_read_is_damage(name, tmp_path):
    (tmp_path / name).mkdir()
    with pytest.raises(SessionDamaged, match=rf"{name} cannot be read \(Is a directory\); start a new session"):
        Journal(tmp_path / name) if name.startswith("journal") else trajectory.read(tmp_path / name)


@pytest.mark.parametrize("spoil", [lambda _: b"nonsense" * 99, lambda data: data[:4096] + b"x" * (len(data) - 4096)])
async def test_damaged_checkpoints_are_said_to_be_with_a_way_on(spoil, tmp_path):
    path = tmp_path / "checkpoints.sqlite"
    async with open_saver(path, 4):
        pass
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(SessionDamaged, match=rf"cannot be read \(.*\); go on in a fork: kodkod --fork {tmp_path.name}"):
        async with open_saver(path, 4) as saver:
            await saver.aget_tuple({"configurable": {"thread_id": "s", "checkpoint_ns": ""}})


def outcome(call_id):
    return Outcome(call_id=call_id, name="edit", for_model="lone \udce4 surrogate")


def test_the_journal_tells_what_was_begun_and_what_was_done(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add(IntentRecord(key="b:call_0", step=1, snapshot="s0"))
    journal.add(OutcomeRecord(key="b:call_0", outcome=outcome("call_0")))
    journal.add(IntentRecord(key="b:call_1", step=2, snapshot="s1"))
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"kind": "outcome", "key": "b:ca')
    torn = (tmp_path / "journal.jsonl").read_bytes()
    again = Journal(tmp_path / "journal.jsonl")
    assert (tmp_path / "journal.jsonl").read_bytes() == torn, "who reads changes nothing: another may be writing"
    assert again.outcome("b:call_0") == outcome("call_0")
    assert again.outcome("b:call_1") is None
    assert again.intent("b:call_1").snapshot == "s1"
    again.add(OutcomeRecord(key="b:call_1", outcome=outcome("call_1")))
    assert Journal(tmp_path / "journal.jsonl").outcome("b:call_1") == outcome("call_1")


def test_a_line_that_a_full_disk_cut_off_is_not_in_the_way_of_the_next(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add(SnapshotRecord(step=0, snapshot="s0"))
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"kind": "snap')
    journal.add(SnapshotRecord(step=1, snapshot="s1"))
    assert Journal(tmp_path / "journal.jsonl").snapshot_after(1) == "s1"


def test_the_journal_knows_the_files_of_every_step(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.add(SnapshotRecord(step=0, snapshot="s0"))
    for step in range(4):
        journal.add(StepRecord(step=step, ledger_mark=step, state={}))
    journal.add(IntentRecord(key="k", step=3, snapshot="before 3"))
    journal.add(SnapshotRecord(step=4, snapshot="end"))
    assert [journal.snapshot_after(step) for step in range(6)] == ["s0", "before 3", "before 3", "end", "end", None]
    journal.add(RewindRecord(step=2))
    again = Journal(tmp_path / "journal.jsonl")
    assert [record.step for record in again.steps] == [0, 1, 2]
    assert again.snapshot_after(2) is None


def test_a_damaged_journal_is_said_to_be(tmp_path):
    (tmp_path / "journal.jsonl").write_text("nonsense\n{}\n")
    with pytest.raises(SessionDamaged):
        Journal(tmp_path / "journal.jsonl")
