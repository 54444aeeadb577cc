"""Shortening a conversation because the person wants it: what goes on, what can be gone back to, and what stays."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from kodkod_agent import events
from kodkod_agent.config import AgentConfig
from kodkod_agent.errors import SessionBusy
from kodkod_agent.policy import PermissionMode
from kodkod_agent.session import Session
from kodkod_agent.trajectory import Rebuilt, read
from kodkod_engine.errors import DeviceLost, EngineError
from kodkod_engine.messages import AssistantMessage, UserMessage

from .conftest import FINISH, all_events, call, says, turn_ids

LOOK = says("Look.", call("view", path="long.txt"))
ATTENDED = AgentConfig(attended=True, baseline_tests=False, verify=False)
LONG = "a long summary " * 50
SUMMARY = "Minus is wrong in calc.py."


@pytest.fixture(autouse=True)
def much_to_read(project):
    (project / "long.txt").write_text("".join(f"line {n} of a long file\n" for n in range(20)))


async def compacted(session: Session, focus: str = "") -> list[Any]:
    return [event async for event in session.compact(focus)]


def said(session: Session) -> list[str]:
    return [message.text for message in session.ledger.view() if isinstance(message, UserMessage)]


async def looked(root, setup_of, *more, times=400, **options) -> Session:
    """A session in which a file was read and much was said of it."""
    script = [LOOK, says("So long a file. " * times), *more]
    session = await Session.create(root, setup_of(script, **{"config": ATTENDED, **options}))
    await all_events(session, "read it")
    return session


async def test_it_goes_on_from_a_summary_and_from_there_when_it_is_opened_again(root, setup_of):
    async with await looked(root, setup_of, says(SUMMARY)) as session:
        before = session.ledger
        told, rebuilt = await compacted(session)
        assert "is being shortened" in told.text
        assert (rebuilt.tokens_before, rebuilt.tokens_after) == (len(before), len(session.ledger))
        assert len(session.ledger) < len(before) - 3_000
        head = before.spans[1].end
        assert session.ledger.token_ids[:head] == before.token_ids[:head], "tools and system text, to the token"
        first, summary, *files = said(session)
        assert first == "read it"
        assert SUMMARY in summary
        assert any(text.startswith("long.txt as it is now:") for text in files)
        kept = session.ledger.token_ids
    async with await Session.resume(root, session.id, setup_of([says("Done.")], config=ATTENDED)) as session:
        assert session.ledger.token_ids == kept
        assert (await all_events(session, "now mend it"))[-1].report.summary == "Done."
        assert session.ledger.token_ids[: len(kept)] == kept


async def test_earlier_steps_can_still_be_gone_back_to(root, setup_of):
    async with await looked(root, setup_of, says(SUMMARY)) as session:
        whole = session.ledger.token_ids
        await compacted(session)
        assert session.steps == [0, 1, 2]
        shortened = session.ledger.token_ids
        await session.rewind(1)
        assert session.ledger.token_ids == whole[: len(session.ledger)]
        assert len(session.ledger) > len(shortened)
    async with await Session.fork(root, session.id, 1, setup_of([])) as fork:
        assert fork.ledger.token_ids == whole[: len(fork.ledger)]


async def test_the_step_at_which_it_was_shortened_can_be_gone_back_to_whole(root, setup_of):
    async with await looked(root, setup_of, says(SUMMARY)) as session:
        whole = session.ledger.token_ids
        await compacted(session)
        assert len(session.ledger) < len(whole)
        await session.rewind(2)
        assert session.ledger.token_ids == whole
    async with await Session.resume(root, session.id, setup_of([says("Done.")], config=ATTENDED)) as session:
        assert session.ledger.token_ids == whole
        await all_events(session, "now mend it")
        assert session.ledger.token_ids[: len(whole)] == whole


async def test_what_the_person_wants_kept_is_asked_for(root, setup_of):
    asked: list[str] = []
    setup = setup_of([])

    def answer(prompt_ids: tuple[int, ...]) -> list[int]:
        asked.append(setup.tokenizer.decode(prompt_ids))
        return [*setup.tokenizer.encode_text(SUMMARY), setup.tokenizer.eos_id]

    engine = type(setup.engine)(
        answer, tokenizer=setup.tokenizer, vocab_size=setup.tokenizer.vocab_size, eos_id=setup.tokenizer.eos_id
    )
    async with await Session.create(root, replace(setup, engine=engine, config=ATTENDED)) as session:
        for focus in ("", "the names of the tests {braces}"):
            await all_events(session, "tell me of it")
            await compacted(session, focus)
    engine.close()
    assert asked[1].count(SUMMARY) == 1, "the last answer is summed up too"
    assert "above all" not in asked[1]
    assert "above all: the names of the tests {braces}" in asked[3]


@pytest.mark.parametrize("how", ["cancel", "leave"])
async def test_one_that_is_stopped_leaves_all_as_it_was(root, setup_of, how):
    slow = {"seconds_per_step": 0.002}
    async with await looked(root, setup_of, says(LONG), says("So."), times=30, engine=slow) as session:
        before, kinds = session.ledger.token_ids, _kinds(session)
        stream = session.compact()
        await anext(stream)
        if how == "leave":
            await stream.aclose()
            await anext(stream := session.compact())
            leaving = asyncio.create_task(anext(stream))
            await asyncio.sleep(0.1)
            leaving.cancel()
            await asyncio.wait({leaving})
        else:
            asyncio.get_running_loop().call_later(0.1, session.cancel)
            assert ["stopped" in event.text async for event in stream] == [True]
        assert (session.ledger.token_ids, _kinds(session)) == (before, kinds)
        async with asyncio.timeout(20):
            while session.setup.engine.stats().running:
                await asyncio.sleep(0.01)
        assert isinstance((await compacted(session))[-1], events.ContextRebuilt), "and can be had again"


def _kinds(session: Session) -> list[str]:
    return [entry.event.kind for entry in read(session.folder.trajectory)]


async def test_what_would_not_get_shorter_stays(root, project, setup_of):
    async with await Session.create(root, setup_of([says("Hello."), says(SUMMARY * 20)], config=ATTENDED)) as session:
        assert [event.text for event in await compacted(session)] == ["there is nothing to shorten yet"]
        await all_events(session, "hello")
        before = session.ledger.token_ids
        (_, note) = await compacted(session)
        assert "stays as it is" in note.text
        assert session.ledger.token_ids == before
        assert not [entry for entry in read(session.folder.trajectory) if isinstance(entry.event, Rebuilt)]


async def test_a_task_too_long_for_a_summary_is_said_and_stays(root, setup_of):
    options = {"config": ATTENDED.model_copy(update={"rebuild_share": 0.05}), "engine": {"max_context_tokens": 30_000}}
    async with await looked(root, setup_of, says(SUMMARY), **options) as session:
        before = session.ledger.token_ids
        (_, note) = await compacted(session)
        assert "take" in note.text
        assert session.ledger.token_ids == before


async def test_not_while_a_run_goes_on_or_was_cut_short(root, setup_of):
    async with await looked(root, setup_of, says("", call("shell", command="sleep 60")), says("", FINISH)) as session:
        stream = session.send("go")
        await anext(stream)
        with pytest.raises(SessionBusy):
            await compacted(session)
        await stream.aclose()


async def test_after_a_run_that_ended_by_a_fault_it_waits_for_what_becomes_of_that(root, setup_of):
    def lost(prompt_ids):
        raise DeviceLost("the GPU fell off the bus")

    setup = setup_of([])
    engine = type(setup.engine)(
        lost, tokenizer=setup.tokenizer, vocab_size=setup.tokenizer.vocab_size, eos_id=setup.tokenizer.eos_id
    )
    async with await Session.create(root, replace(setup, engine=engine)) as session:
        with pytest.raises(EngineError):
            await all_events(session, "go")
        assert await session.is_unfinished()
        with pytest.raises(SessionBusy, match="cut short"):
            await compacted(session)
    engine.close()


async def test_that_nothing_may_be_changed_is_told_again(root, setup_of):
    options = {"mode": PermissionMode.PLAN}
    async with await looked(root, setup_of, says(SUMMARY), says("I would."), **options) as session:
        plan = [text for text in said(session) if "plan" in text.lower()]
        await compacted(session)
        assert [text for text in said(session) if "plan" in text.lower()][-1:] == plan[-1:]
        await all_events(session, "and now?")
        answers = [message for message in session.ledger.view() if isinstance(message, AssistantMessage)]
    assert [answer.text for answer in answers] == ["I would."]


@pytest.mark.parametrize(("reads_ahead", "longest"), [(True, 18_500), (True, 60_000), (False, 18_500)])
async def test_whether_there_is_room_for_what_is_said_next_is_known_before(root, setup_of, reads_ahead, longest):
    options = {"reads_ahead": reads_ahead, "engine": {"max_context_tokens": longest}}
    nobody_reads = [65]
    setup = setup_of([nobody_reads, says("It is long. " * 30), nobody_reads], config=ATTENDED, **options)
    async with await Session.create(root, setup) as session:
        assert not session.is_nearly_full
        await all_events(session, "read it")
        assert session.is_nearly_full is (reads_ahead and longest == 18_500)


async def test_how_often_it_may_be_shortened_is_counted_by_the_run(root, project, setup_of):
    config = ATTENDED.model_copy(update={"max_turn_tokens": 300, "summary_tokens": 200, "max_rebuilds": 1})
    (project / "long.txt").write_text("all work and no play\n" * 60)
    views = [says("", call("view", path="long.txt", start=line)) for line in range(1, 7)]
    answers = iter([*views, says("It says lines."), *views, says("Still lines.")])
    setup = setup_of([], config=config)

    def answer(prompt_ids: tuple[int, ...]) -> list[int]:
        is_summary = "about to be shortened" in setup.tokenizer.decode(prompt_ids[-900:])
        return turn_ids(setup.tokenizer, says(SUMMARY) if is_summary else next(answers))

    vocab_size, eos_id = setup.tokenizer.vocab_size, setup.tokenizer.eos_id
    engine = type(setup.engine)(
        answer, tokenizer=setup.tokenizer, vocab_size=vocab_size, eos_id=eos_id, max_context_tokens=18_000
    )
    async with await Session.create(root, replace(setup, engine=engine)) as session:
        reports = [(await all_events(session, text))[-1].report for text in ("read it", "and again")]
    engine.close()
    assert [(report.status, report.reason) for report in reports] == [("done", "answered")] * 2
    assert _kinds(session).count("rebuilt") == 2
