"""A guided model that is told which edits are plausible: it is offered those alone, and both opinions count."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import pytest

from kodkod_agent.config import AgentConfig
from kodkod_agent.guidance import Guide, WorkTreeFiles
from kodkod_agent.judging import EDIT_SHARE, LEAST_EDIT, LEAST_VIEW, MAX_OUTPUT_TOKENS, VIEW_SHARE, Judge, JudgedEdit
from kodkod_agent.progress import read_progress
from kodkod_agent.proposals import ScoredTurn
from kodkod_agent.ranking import Evidence, RankedEdit
from kodkod_agent.session import Session
from kodkod_agent.state import Status
from kodkod_agent.ways import Ways
from kodkod_engine import load_engine
from kodkod_engine.messages import AssistantMessage, ToolMessage, UserMessage

from .conftest import all_events, git
from .guided import FAILING, GUIDED, TRACED

CONFIG = AgentConfig(baseline_tests=False, test_targets=(FAILING,), max_tries=3)
RIGHT = RankedEdit("clip.py", 6, " low", " high", -0.1)
WRONG = RankedEdit("clip.py", 6, " low", " value", -3.0)
ELSEWHERE = RankedEdit("clip.py", 11, " value", " None", -5.0)
SEARCHED = GUIDED.model_copy(update={"searched": True})


class FakeRanker:
    """Says what it was made with, and keeps what it was asked."""

    def __init__(self, *edits):
        self.edits, self.asked = edits, []

    def ranked(self, evidence, most):
        self.asked.append(evidence)
        return self.edits[:most]


async def ended(root, setup_of, tiny_folder, ranker):
    """A run of random weights with this ranker; the session's calls, and the report."""
    with closing(load_engine(tiny_folder)) as engine:
        setup = replace(setup_of([], config=CONFIG, tools=TRACED, profile=SEARCHED), engine=engine, ranker=ranker)
        async with await Session.create(root, setup) as session:
            told = await all_events(session, "mend it")
            calls = [one for turn in session.ledger.view() if isinstance(turn, AssistantMessage) for one in turn.calls]
    return [(one.name, dict(one.arguments)) for one in calls], told[-1].report


async def test_random_weights_mend_it_with_a_ranker_that_knows(root, setup_of, faulty, tiny_folder):
    ranker = FakeRanker(WRONG, RIGHT)
    calls, report = await ended(root, setup_of, tiny_folder, ranker)
    assert report.status is Status.DONE, report.reason
    assert [name for name, _ in calls] == ["test", "view", "edit", "test", "finish"]
    assert calls[2][1] == {"path": "clip.py", "line": 6, "old": " low", "new": " high"}
    asked = ranker.asked[0]
    assert isinstance(asked, Evidence)
    assert [(one.path, one.function) for one in asked.suspects] == [("clip.py", "clip")]
    assert "test_top" in asked.output
    assert set(asked.texts) == {"clip.py"}


async def test_what_was_tried_is_not_offered_again_and_then_it_is_over(root, setup_of, faulty, tiny_folder):
    calls, report = await ended(root, setup_of, tiny_folder, FakeRanker(WRONG))
    assert report.status is Status.UNVERIFIED
    assert [name for name, _ in calls] == ["test", "view", "edit", "test", "edit", "finish"]
    assert calls[2][1]["new"] == " value"
    assert (faulty / "clip.py").read_text() == git(faulty, "show", "HEAD:clip.py")


async def test_ways_are_scored_by_both_and_come_in_order(root, setup_of, faulty, tiny_folder):
    ranker = FakeRanker(RIGHT, WRONG)
    with closing(load_engine(tiny_folder)) as engine:
        config = CONFIG.model_copy(update={"max_tries": 1})
        setup = replace(setup_of([], config=config, tools=TRACED, profile=SEARCHED), engine=engine, ranker=ranker)
        async with await Session.create(root, setup) as session:
            await all_events(session, "mend it")
            async with await Session.fork(root, session.id, 1, setup) as fork:
                guide = Guide(setup.tokenizer, WorkTreeFiles(fork.tools), ranker=ranker)
                (faulty / "clip.py").write_text(git(faulty, "show", "HEAD:clip.py"))
                found = await Ways(engine, guide, fork.tools).best(fork.ledger, 5)
    assert [way.change[2].strip() for way in found] == ["return high", "return value"]
    for way, edit in zip(found, (RIGHT, WRONG), strict=True):
        view, turn = way.turns
        assert view.logprob < LEAST_VIEW
        assert turn.logprob < LEAST_EDIT
        assert way.score == pytest.approx(edit.logprob + VIEW_SHARE * LEAST_VIEW + EDIT_SHARE * LEAST_EDIT)


def test_a_ranked_edit_is_shown_by_the_view_of_its_function(faulty):
    from kodkod_agent.progress import Suspect

    suspect = Suspect("clip.py", 1, 7, (6,), "clip")
    assert RIGHT.is_in(suspect)
    assert not ELSEWHERE.is_in(suspect)
    assert not replace(RIGHT, path="other.py").is_in(suspect)


async def test_what_was_tried_and_how_much_the_tests_said_do_not_bear_on_what_the_model_is_asked(
    root, setup_of, faulty, tiny_folder
):
    with closing(load_engine(tiny_folder)) as engine:
        config = CONFIG.model_copy(update={"max_tries": 1})
        setup = replace(setup_of([], config=config, tools=TRACED, profile=SEARCHED), engine=engine, ranker=FakeRanker())
        async with await Session.create(root, setup) as session:
            await all_events(session, "mend it")
            judge = Judge(engine, setup.tokenizer, session.tools)
            asked = session.ledger.view()
            progress = read_progress(asked)
            begun = judge.up_to_the_tests(asked, progress)
            assert [type(message) for message in begun] == [UserMessage, AssistantMessage, ToolMessage]
            (once,) = await judge.judged(session.ledger, progress, [RIGHT])
            again = session.ledger.rebuild([*asked, UserMessage(text="and now?")])
            (twice,) = await judge.judged(again, progress, [RIGHT])
            for one, other in ((once.view, twice.view), (once.turn, twice.turn)):
                assert one.token_ids == other.token_ids
                assert one.logprob == pytest.approx(other.logprob, rel=1e-3)
            long = progress.output.replace("\n", "\n" + "many words of no use\n" * 500, 1)
            cut = judge.cut(long)
    assert cut != long
    assert cut.endswith(progress.output[progress.output.index("Run by the failing tests") :])
    assert cut.startswith(progress.output.split("\n", 1)[0])
    assert len(setup.tokenizer.encode_text(cut)) <= MAX_OUTPUT_TOKENS + 2
    assert judge.cut("ok\n" + cut[cut.index("Run by") :]).startswith("ok\n")


def test_what_the_model_holds_impossible_counts_only_so_far():
    least = ScoredTurn((1,), -999.0)
    sure = ScoredTurn((1,), 0.0)
    assert JudgedEdit(RIGHT, sure, sure).score == RIGHT.logprob
    assert JudgedEdit(RIGHT, least, sure).score == pytest.approx(RIGHT.logprob + VIEW_SHARE * LEAST_VIEW)
    assert JudgedEdit(RIGHT, sure, least).score == pytest.approx(RIGHT.logprob + EDIT_SHARE * LEAST_EDIT)
