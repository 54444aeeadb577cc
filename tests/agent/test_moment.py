"""Facts of the moment: what is told, when, and where in the conversation."""

from kodkod_agent.config import AgentConfig
from kodkod_agent.limits import Remaining
from kodkod_agent.moment import Allowance, Moment, allowances, is_of_the_moment, newly_low
from kodkod_agent.policy import PermissionMode
from kodkod_agent.profile import Profile
from kodkod_agent.session import Session
from kodkod_engine.chat.ledger_state import Origin
from kodkod_engine.messages import UserMessage
from kodkod_tools.base import ToolContext

from .conftest import FINISH, QUICK_TESTS, all_events, call, git, says

LOOK = says("", call("view", path="calc.py"))


def told_in(session):
    return [m.text for m in session.ledger.view() if isinstance(m, UserMessage) and is_of_the_moment(m.text)]


async def test_the_date_and_gits_status_are_told(project, sandbox, tmp_path):
    (project / "calc.py").write_text("")
    (project / "new.txt").touch()
    context = ToolContext(sandbox, project, QUICK_TESTS, tmp_path / "logs")
    (text,) = await Moment().facts(context)
    assert text.startswith("Facts of the moment: it is ")
    assert text.endswith("Git, before you began: on branch main\nmodified: calc.py\nuntracked: new.txt")


async def test_a_long_status_is_short(project, sandbox, tmp_path):
    for number in range(100):
        (project / f"{number}.txt").touch()
    (text,) = await Moment().facts(ToolContext(sandbox, project, QUICK_TESTS, tmp_path / "logs"))
    assert text.endswith("[88 more]")


async def test_without_a_repository_the_date_alone(tmp_path, sandbox):
    (tmp_path / "plain").mkdir()
    context = ToolContext(sandbox, tmp_path / "plain", QUICK_TESTS, tmp_path / "logs")
    (text,) = await Moment().facts(context)
    assert text.endswith(".")
    assert "Git" not in text


async def test_they_come_with_each_run_at_the_tail_and_what_was_there_stays(setup_of, project, root):
    async with await Session.create(root, setup_of([says("", FINISH)] * 2)) as session:
        head = session.ledger.token_ids
        await all_events(session, "one")
        before = session.ledger.token_ids
        git(project, "switch", "-q", "-c", "other")
        await all_events(session, "two")
        assert session.ledger.token_ids[: len(before)] == before
        assert before[: len(head)] == head
        told = told_in(session)
    assert ["on branch main" in told[0], "on branch other" in told[1], len(told)] == [True, True, 2]


async def test_a_model_without_system_text_is_told_nothing(setup_of, root):
    setup = setup_of([says("", FINISH)], profile=Profile(system=False))
    async with await Session.create(root, setup) as session:
        await all_events(session, "one")
        assert all(span.origin is not Origin.NOTICE for span in session.ledger.spans)


async def test_a_change_of_the_mode_is_told_once_and_in_the_middle_of_a_run_too(setup_of, root):
    async with await Session.create(root, setup_of([LOOK, LOOK, says("", FINISH), says("", FINISH)])) as session:
        turns = 0
        async for event in session.send("one"):
            turns += type(event).__name__ == "TurnEnded"
            if turns == 1:
                session.permissions.mode = PermissionMode.ACCEPT_EDITS
        await all_events(session, "two")
        modes = [text for text in told_in(session) if text.startswith("The permission mode")]
    assert len(modes) == 1
    assert "acceptEdits" in modes[0]


async def test_what_is_left_is_told_at_a_quarter_and_at_a_tenth(setup_of, root):
    config = AgentConfig(baseline_tests=False, max_turns=10, max_loop_warnings=100)
    async with await Session.create(root, setup_of([LOOK] * 9 + [says("", FINISH)], config=config)) as session:
        found = await all_events(session, "go")
        told = [text for text in told_in(session) if text.startswith("Left of this run")]
    assert [text.split(".")[0] for text in told] == [
        "Left of this run: 2 of 10 turns",
        "Left of this run: 1 of 10 turns",
    ]
    notices = [event.text for event in found if type(event).__name__ == "Notice"]
    assert [text for text in notices if is_of_the_moment(text)] == told


def test_a_share_is_told_of_once():
    found = allowances(AgentConfig(max_turns=100, max_tokens=1000, timeout_s=100), Remaining(5, 900, 20.0))
    low, known = newly_low(found, {})
    assert [str(one) for one in low] == ["5 of 100 turns", "20 of 100 seconds"]
    assert known == ["turns 0.25", "turns 0.1", "seconds 0.25"]
    assert newly_low(found, {"told_budgets": known}) == ([], known)
    assert Allowance("turns", 26, 100).crossed == []
