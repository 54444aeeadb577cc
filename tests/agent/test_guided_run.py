"""Guided runs from end to end: a model that knows nothing ends by itself, and one that knows the fault mends it."""

from __future__ import annotations

from contextlib import closing

import pytest

from kodkod_agent import events
from kodkod_agent.config import AgentConfig
from kodkod_agent.guidance import NONE_FAILS, NOTHING_TO_GO_BY, PASSED, Guide
from kodkod_agent.proposals import SearchLimits, next_turns
from kodkod_agent.session import Session
from kodkod_agent.state import Status
from kodkod_engine import load_engine
from kodkod_engine.chat.ledger_state import Origin
from kodkod_engine.messages import AssistantMessage, ToolMessage, UserMessage

from .conftest import all_events, call, git, says, turn_ids
from .guided import FAILING, GUIDED, TRACED

CONFIG = AgentConfig(baseline_tests=False, test_targets=(FAILING,), max_tries=2)
LOCATE = call("test", locate=True)
VIEW = call("view", path="clip.py", start=1, end=7)
EDIT = call("edit", path="clip.py", line=6, old=" low", new=" high")
WRONG = call("edit", path="clip.py", line=6, old=" low", new=" value")
TEST = call("test")
UNDO = call("edit", path="clip.py", line=6, old="        return value", new="        return low")
MOST_TOKENS_OF_A_CALL = 200
FINISH = call("finish", summary="The failing tests pass now.")


def calls_of(session):
    return [
        made for message in session.ledger.view() if isinstance(message, AssistantMessage) for made in message.calls
    ]


def named(made):
    return made.name, dict(made.arguments)


async def test_random_weights_end_by_themselves_with_every_call_well_formed(tiny_folder, setup_of, faulty, root):
    config = CONFIG.model_copy(update={"temperature": 1.0, "seed": 7})
    with closing(load_engine(tiny_folder)) as engine:
        setup = setup_of([], config=config, tools=TRACED, profile=GUIDED)
        setup = type(setup)(**{name: getattr(setup, name) for name in setup.__slots__} | {"engine": engine})
        async with await Session.create(root, setup) as session:
            told = await all_events(session, "mend it")
            made = calls_of(session)
            answers = [message.text for message in session.ledger.view() if isinstance(message, ToolMessage)]
    report = told[-1].report
    assert report.status is Status.UNVERIFIED, report.reason
    assert made
    assert all(one.fault is None for one in made)
    assert not any(isinstance(event, events.CallFinished) and event.facts.get("malformed") for event in told)
    assert not any(text.startswith(("error: bad arguments", "error: old", "error: the call")) for text in answers)
    assert sum(one.name == "edit" for one in made) >= 2
    assert made[-1].name == "finish"
    assert (faulty / "clip.py").read_text() == git(faulty, "show", "HEAD:clip.py"), "what did not help was taken back"


async def test_a_model_that_knows_the_fault_mends_it(setup_of, faulty, root, tiny_folder):
    script = [says("", one) for one in (LOCATE, VIEW, WRONG, TEST, UNDO, EDIT, TEST, FINISH)]
    setup = setup_of(script, config=CONFIG, tools=TRACED, profile=GUIDED)
    (faulty / "AGENTS.md").write_text("Be kind.\n")
    async with await Session.create(root, setup) as session:
        told = await all_events(session, "mend it")
        assert session.ledger.spans[0].origin is Origin.USER
        assert session.ledger.renders_back()
        assert [named(made) for made in calls_of(session)] == [
            named(one) for one in (LOCATE, VIEW, WRONG, TEST, UNDO, EDIT, TEST, FINISH)
        ]
        assert Origin.NOTICE not in {span.origin for span in session.ledger.spans}
        results = [message.text for message in session.ledger.view() if isinstance(message, ToolMessage)]
    assert told[-1].report.status is Status.DONE
    assert "clip.py:1-7 clip:" in results[0]
    assert "1 failed" in results[3]
    assert "2 passed" not in results[3], "a test call without targets runs the run's own failing tests"
    await _forks_are_offered_the_same(root, session.id, setup, tiny_folder)


async def test_what_was_not_committed_is_put_back_line_by_line(setup_of, faulty, root):
    (faulty / "clip.py").write_text((faulty / "clip.py").read_text() + "\n\nUNSAVED = 1\n")
    before = (faulty / "clip.py").read_text()
    script = [says("", one) for one in (LOCATE, VIEW, WRONG, TEST, UNDO, EDIT, TEST, FINISH)]
    async with await Session.create(root, setup_of(script, config=CONFIG, tools=TRACED, profile=GUIDED)) as session:
        told = await all_events(session, "mend it")
        assert [named(made) for made in calls_of(session)][4] == named(UNDO)
    assert told[-1].report.status is Status.DONE
    assert (faulty / "clip.py").read_text() == before.replace(
        "value > high:\n        return low", "value > high:\n        return high"
    )


async def _forks_are_offered_the_same(root, parent_id, setup, tiny_folder):
    """After the first edit was taken back, and before there was any."""
    tokenizer = setup.tokenizer
    async with await Session.fork(root, parent_id, 5, setup) as fork:
        constraint = await fork._res.constraint()
        assert is_open_to(constraint, turn_ids(tokenizer, says("", EDIT)))
        assert not is_open_to(constraint, turn_ids(tokenizer, says("", WRONG))), "it was tried"
        assert fork.ledger.tools == tuple(sorted(GUIDED.specs(), key=lambda spec: spec.name))
    async with await Session.fork(root, parent_id, 1, setup) as fork:
        constraint = await fork._res.constraint()
        with closing(load_engine(tiny_folder)) as engine:
            turns = await next_turns(engine, fork.ledger, constraint, 3, SearchLimits(expansions=60))
    assert [turn.token_ids for turn in turns] == [tuple(turn_ids(tokenizer, says("", VIEW)))]


def is_open_to(constraint, ids):
    """Whether a constraint allows a turn."""
    return all(token_id in constraint.allowed_ids(ids[:place]) for place, token_id in enumerate(ids))


async def test_nearly_all_of_the_context_is_left_for_what_the_next_calls_follow_from(setup_of, faulty, root):
    """A guided model that lost the beginning would begin again, and go in circles."""
    setup = setup_of([says("done")], config=CONFIG, tools=TRACED, profile=GUIDED)
    async with await Session.create(root, setup) as session:
        budget = session._res.budget
    assert budget.turn + 2 * budget.summary < 0.05 * budget.context
    assert budget.turn > 2 * MOST_TOKENS_OF_A_CALL


@pytest.mark.parametrize(("before", "told", "summary"), [
    ((), "12 passed in 0.3 s [exit code 0]", NONE_FAILS),
    ((), "Ran 0 tests in 0.0 s\n[pytest is not installed in the sandbox's Python]", NOTHING_TO_GO_BY),
    ((), "no tests were found [exit code 5]; name a file with targets", NOTHING_TO_GO_BY),
    ((EDIT,), "12 passed in 0.3 s [exit code 0]", PASSED),
])  # fmt: skip
def test_its_last_word_says_what_is_so(tokenizer, before, told, summary):
    calls = [one.model_copy(update={"id": str(number)}) for number, one in enumerate((*before, TEST))]
    answers = ["edited clip.py"] * len(before) + [told]
    conversation = [UserMessage(text="What is here?"), AssistantMessage(calls=tuple(calls))]
    conversation += [ToolMessage(call_id=one.id, text=text) for one, text in zip(calls, answers, strict=True)]
    assert LastWord(tokenizer, NoFiles()).patterns(conversation) == [summary]


class LastWord(Guide):
    """Says the summary instead of a pattern for it."""

    def _finish(self, summary):
        return summary


class NoFiles:
    """See `Files`."""

    def text(self, _path):
        return None
