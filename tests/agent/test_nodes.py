"""The nodes without a graph: from a state and resources to an update."""

import pytest
from pydantic import JsonValue

from kodkod_agent import events, nodes
from kodkod_agent.calls import answer_pending, perform
from kodkod_agent.config import AgentConfig
from kodkod_agent.errors import LimitReached, NoProgress
from kodkod_agent.journal import IntentRecord, Journal
from kodkod_agent.ledger_log import LedgerLog
from kodkod_agent.permissions import Permissions
from kodkod_agent.policy import PermissionMode
from kodkod_agent.resources import Resources
from kodkod_agent.snapshots import WorkTreeSnapshots
from kodkod_agent.state import Node, Ruling, Status, new_run, new_session
from kodkod_agent.trajectory import TrajectoryWriter, read
from kodkod_agent.verify import check, has_tests, not_failing
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.messages import AssistantMessage, ToolMessage, UserMessage
from kodkod_tools import registry
from kodkod_tools.base import ToolContext
from kodkod_tools.config import ToolsConfig

from .conftest import FAULTY, FINISH, MEND, MENDED, QUICK_TESTS, call, says, turn_ids

YES = Ruling(allowed=True, reason="yes")


@pytest.fixture
def res_of(tokenizer, project, sandbox, engine_of, tmp_path):
    """Makes resources, and a state that begins a run."""
    writers = []

    def make(script=(), mode=PermissionMode.BYPASS_PERMISSIONS, **config):
        folder = tmp_path / f"session{len(writers)}"
        folder.mkdir()
        writers.append(TrajectoryWriter(folder / "trajectory.jsonl"))
        log = LedgerLog(folder / "ledger.jsonl")
        ledger = TokenLedger.open(tokenizer, registry.specs(), "system")
        found = []
        res = Resources(
            config=AgentConfig(**{"baseline_tests": False, **config}),
            engine=engine_of(script),
            tokenizer=tokenizer,
            ledger=ledger,
            log=log,
            journal=Journal(folder / "journal.jsonl"),
            trajectory=writers[-1],
            tools=ToolContext(sandbox, project, QUICK_TESTS, folder / "logs"),
            snapshots=WorkTreeSnapshots(project, folder.name, folder=folder),
            permissions=Permissions(project, mode, trusted=True),
            emit=found.append,
        )
        res.stopwatch.start(0.0)
        state = {**new_session(log.sync(ledger)), **new_run("add subtracts", step=0)}
        return res, state, found

    yield make
    for writer in writers:
        writer.close()


def with_turn(res, tokenizer, message):
    res.ledger.append_user("go")
    res.ledger.begin_turn()
    res.ledger.append_generated(turn_ids(tokenizer, message))


async def test_prepare_takes_in_the_person_then_checks_the_limits(res_of):
    res, state, _ = res_of(max_turns=1)
    update = await nodes.prepare(state, res)
    assert (update["next"], update["inbox"]) == (Node.PREPARE, [])
    assert res.ledger.view()[-1] == UserMessage(text="add subtracts")
    state |= update
    assert (await nodes.prepare(state, res))["next"] is Node.MODEL
    assert [record.step for record in res.journal.steps] == [0]
    with pytest.raises(LimitReached):
        await nodes.prepare({**state, "step": 1}, res)


async def test_model_keeps_the_very_ids_and_goes_to_the_gate(res_of, tokenizer):
    res, state, found = res_of([says("Mend.", MEND)])
    state |= await nodes.prepare(state, res)
    before = len(res.ledger)
    update = await nodes.model(state, res)
    assert (update["next"], update["step"]) == (Node.GATE, 1)
    assert list(res.ledger.token_ids[before + 1 :]) == turn_ids(tokenizer, says("Mend.", MEND))
    assert update["generated_tokens"] == len(turn_ids(tokenizer, says("Mend.", MEND)))
    assert update["ledger_mark"] == res.log.mark
    assert [type(event) for event in found][-1] is events.UsageReported


async def test_model_takes_over_a_turn_that_was_written_before_a_kill(res_of, tokenizer):
    res, state, _ = res_of()  # the engine has nothing to say
    state |= await nodes.prepare(state, res)
    res.ledger.begin_turn()
    res.ledger.append_generated(turn_ids(tokenizer, says("Mend.", MEND)))
    res.log.sync(res.ledger)
    res.ledger = res.log.at(tokenizer, state["ledger_mark"])
    update = await nodes.model(state, res)
    assert update["next"] is Node.GATE
    assert update["generated_tokens"] == len(turn_ids(tokenizer, says("Mend.", MEND))), "as if it had been written now"
    assert [c.name for c in res.ledger.pending_calls] == ["edit"]


async def test_gate_asks_once_for_all_and_does_nothing_else(res_of, tokenizer, project):
    res, state, found = res_of(mode=PermissionMode.DEFAULT)
    with_turn(res, tokenizer, says("", call("view", path="calc.py"), MEND, call("write", path="x", content="y")))
    asked = []

    def ask(requests):
        asked.append(requests)
        return [{"call_id": "call_2", "allowed": False, "message": "no"}, {"call_id": "call_1", "allowed": True}]

    update = await nodes.gate(state, res, ask)
    assert [[request["call_id"] for request in requests] for requests in asked] == [["call_1", "call_2"]]
    assert [update["rulings"][f"call_{n}"]["allowed"] for n in range(3)] == [True, True, False]
    assert update["next"] is Node.TOOLS
    assert (project / "calc.py").read_text() == FAULTY
    assert found == []


async def test_tools_run_again_from_the_same_state_do_nothing_twice(res_of, tokenizer, project):
    res, state, _ = res_of()
    grow = call("edit", path="calc.py", old="def add", new="# grown\ndef add")
    with_turn(res, tokenizer, says("", grow, call("view", path="calc.py")))
    state |= {"ledger_mark": res.log.sync(res.ledger), "step": 1, "rulings": {"call_0": YES, "call_1": YES}}
    first = await nodes.tools(state, res)
    view = res.ledger.view()
    res.ledger = res.log.load(tokenizer, state["ledger_mark"])
    assert await nodes.tools(state, res) == first
    assert res.ledger.view() == view
    assert (project / "calc.py").read_text() == "# grown\n" + FAULTY


async def test_a_call_with_an_intent_and_no_end_is_put_back_and_run_again(res_of, tokenizer, project):
    res, _, found = res_of()
    with_turn(res, tokenizer, says("", call("shell", command="echo more >> calc.py")))
    (shell,) = res.ledger.pending_calls
    snapshot = await res.take_snapshot(1)
    res.journal.add(IntentRecord(key=f"{res.ledger.branch_id}:{shell.id}", step=1, snapshot=snapshot))
    (project / "calc.py").write_text(FAULTY + "more\n")
    (project / "half").write_text("half")
    await perform(shell, YES, 1, res)
    assert (project / "calc.py").read_text() == FAULTY + "more\n"
    assert not (project / "half").exists()
    assert any("cut short" in event.text for event in found if isinstance(event, events.Notice))


async def test_a_refused_call_changes_nothing_and_takes_no_snapshot(res_of, tokenizer, project):
    res, _, found = res_of()
    with_turn(res, tokenizer, says("", MEND))
    outcome = await perform(res.ledger.pending_calls[0], Ruling(allowed=False, reason="no"), 1, res)
    assert (outcome.refused, outcome.for_model) == (True, "not run: no")
    assert (project / "calc.py").read_text() == FAULTY
    assert not any(isinstance(event, events.SnapshotTaken) for event in found)


async def test_a_long_result_is_cut_to_its_share_of_the_context(res_of, tokenizer, project):
    (project / "long.txt").write_text("".join(f"line {n} of many in this file\n" for n in range(400)))
    res, _, _ = res_of(max_result_share=0.05)
    with_turn(res, tokenizer, says("", call("view", path="long.txt")))
    before = len(res.ledger)
    await perform(res.ledger.pending_calls[0], YES, 1, res)
    assert len(res.ledger) - before <= res.budget.result + 10
    assert "left out" in res.ledger.view()[-1].text


async def test_finish_goes_to_verify_and_verify_to_the_end(res_of, tokenizer, project):
    res, state, _ = res_of()
    state |= await nodes.prepare(state, res)
    (project / "calc.py").write_text(MENDED)
    with_turn(res, tokenizer, says("", FINISH))
    update = await nodes.tools({**state, "rulings": {"call_0": YES}, "step": 1}, res)
    assert (update["next"], update["summary"]) == (Node.VERIFY, "add adds")
    verdict = await nodes.verify({**state, **update, "step": 1}, res)
    assert (verdict["next"], verdict["status"]) == (Node.FINISH, Status.DONE)
    end = await nodes.finish({**state, **update, **verdict, "step": 1}, res)
    assert "+    return a + b" in res.snapshots.diff(state["base_snapshot"], end["end_snapshot"])


async def test_too_many_malformed_calls_end_the_run(res_of, tokenizer):
    res, state, _ = res_of(max_malformed_calls=3)
    with_turn(res, tokenizer, says("", *[call("explode")] * 3))
    rulings = {f"call_{n}": YES for n in range(3)}
    with pytest.raises(NoProgress, match="3 calls in a row"):
        await nodes.tools({**state, "rulings": rulings, "step": 1}, res)
    assert not res.ledger.pending_calls


def test_what_is_open_can_always_be_closed(res_of, tokenizer):
    res, _, _ = res_of()
    res.ledger.append_user("go")
    res.ledger.begin_turn()
    res.ledger.append_generated(turn_ids(tokenizer, says("I will", MEND))[:-1])
    answer_pending("the user interrupted it", res)
    assert isinstance(res.ledger.view()[-2], AssistantMessage)
    assert res.ledger.view()[-1] == ToolMessage(call_id="call_0", text="not run: the user interrupted it")


async def test_the_trajectory_tells_all_of_a_turn(res_of, tokenizer):
    res, state, _ = res_of([says("Mend.", MEND)])
    state |= await nodes.prepare(state, res)
    state |= await nodes.model(state, res)
    state |= await nodes.gate(state, res, list)
    await nodes.tools(state, res)
    told = [entry.event.kind for entry in read(res.log._path.with_name("trajectory.jsonl"))]
    assert told == [
        *("notice", "user_message", "snapshot_taken", "assistant_turn", "decided"),
        *("snapshot_taken", "call_started", "call_finished"),
    ]


# What the tests say


@pytest.mark.parametrize(
    ("before", "after", "holds"),
    [
        ({}, {"passed": 3, "failed": 0, "errors": 0}, True),
        ({}, {"passed": 0, "failed": 0, "errors": 0, "skipped": 2}, False),
        ({}, {"passed": 9, "failed": 1, "errors": 0, "failed_tests": ["a"]}, False),
        ({"failed": 2, "failed_tests": ["a", "b"]}, {"passed": 9, "failed": 1, "failed_tests": ["a"]}, True),
        ({"failed": 1, "failed_tests": ["a"]}, {"passed": 9, "failed": 1, "failed_tests": ["a"]}, False),
        ({"failed": 2, "failed_tests": ["a", "b"]}, {"passed": 9, "failed": 1, "failed_tests": ["c"]}, False),
        ({}, {"passed": 3, "failed": 0, "timed_out": True}, False),
        ({}, {"exit_code": 0}, True),
        ({}, {"exit_code": 2}, False),
    ],
)
def test_what_failed_before_is_not_held_against_the_work(before, after, holds):
    assert check(before, after).holds is holds


def test_what_is_not_named_is_not_called_mended() -> None:
    """Of very many tests that fail only some are named: the others may fail newly, or be those that must pass."""
    names: list[JsonValue] = [f"test_{number}" for number in range(200)]
    before = {"passed": 1, "failed": 300, "failed_tests": names}
    after = {"passed": 2, "failed": 199, "errors": 0, "failed_tests": names[1:]}
    for was, now in ((before, after), (before | {"failed": 200}, after | {"failed": 260})):
        verdict = check(was, now, targets=("test_0",))
        assert not verdict.holds
        assert "too many to be compared" in verdict.reason
    assert check(before | {"failed": 200}, after, targets=("test_0",)).holds
    assert not_failing(before, ["test_250"]) == []
    assert not_failing(before | {"failed": 200}, ["test_250"]) == ["test_250"]


def test_tests_are_looked_for(tmp_path):
    assert not has_tests(tmp_path, AgentConfig(), ToolsConfig())
    assert has_tests(tmp_path, AgentConfig(run_tests=True), ToolsConfig())
    assert has_tests(tmp_path, AgentConfig(), ToolsConfig(test_command=("make", "test")))
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "test_it.py").touch()
    assert has_tests(tmp_path, AgentConfig(), ToolsConfig())
    assert not has_tests(tmp_path, AgentConfig(run_tests=False), ToolsConfig())
