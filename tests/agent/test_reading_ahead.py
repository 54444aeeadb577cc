"""What the engine computes while the person thinks: the beginning of what it will be asked, at nobody's cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kodkod_agent import events
from kodkod_agent.config import AgentConfig
from kodkod_agent.profile import Profile
from kodkod_agent.session import Session, SessionSetup
from kodkod_agent.skills import Skill, read_skills
from kodkod_engine.backends.scripted import ScriptedEngine
from kodkod_engine.config import EngineConfig
from kodkod_engine.messages import UserMessage

from .conftest import all_events, call, says
from .foreign import FakeForeign, offering
from .test_skills import write

ATTENDED = AgentConfig(attended=True, baseline_tests=False)
NOBODY_READS = [65]
"""What the script says to a request that is made for its prompt alone."""


def skills_in(folder: Path) -> tuple[Skill, ...]:
    if not folder.exists():
        write(folder, "release", "When something is released.")
    return read_skills(folder, folder).found


async def idle(engine: ScriptedEngine, asked_before: int = 0) -> None:
    """Wait until the engine has done more than this many prompt tokens, and computes nothing."""
    async with asyncio.timeout(20):
        while engine.stats().running or engine.stats().waiting or engine.stats().prompt_tokens <= asked_before:
            await asyncio.sleep(0.01)


def written(session: Session) -> dict[Path, bytes]:
    """What stays of it, but for the database, whose readers leave marks."""
    files = (path for path in session.folder.path.iterdir() if path.is_file())
    return {path: path.read_bytes() for path in files if not path.name.startswith("checkpoints")}


def usage_of(found: list[Any]):
    return next(event.usage for event in found if isinstance(event, events.UsageReported))


@pytest.fixture
def rich(setup_of: Callable[..., SessionSetup], project: Path, tmp_path: Path) -> Callable[..., SessionSetup]:
    """A project with instructions, a skill, and a tool of another program: all is told before the first word."""

    def make(script: list[Any], **options: Any) -> SessionSetup:
        (project / "AGENTS.md").write_text("Write short functions.\n" * 20)
        told = {"more": offering(FakeForeign()), "skills": skills_in(tmp_path / "skills")}
        return setup_of(script, **{"config": ATTENDED, "reads_ahead": True, **told, **options})

    return make


async def test_all_but_the_facts_and_the_words_is_there_when_they_come(root, rich):
    setup = rich([NOBODY_READS, says("Here.")])
    async with await Session.create(root, setup) as session:
        head = len(session.ledger)
        assert len(session.ledger) == head, "only thought of"
        await idle(setup.engine)
        ahead = setup.engine.stats().prompt_tokens
        assert ahead > head + 400, "instructions, skill and tool too"
        usage = usage_of(await all_events(session, "where is it?"))
        assert usage.reused_tokens == ahead
        told = [message.text for message in session.ledger.view() if isinstance(message, UserMessage)]
        assert [("short functions" in text, "Facts" in text, text == "where is it?") for text in told][-3:] == [
            (True, False, False), (False, True, False), (False, False, True)
        ]  # fmt: skip
    setup.engine.check_integrity()


async def test_nothing_of_it_is_written_down_or_told(root, rich):
    news = ["the server is up"]
    setup = rich([NOBODY_READS, says("Here.")], news=lambda: [news.pop()] if news else [])
    async with await Session.create(root, setup) as session:
        before = written(session)
        await idle(setup.engine)
        assert written(session) == before
        told = [event.text for event in await all_events(session, "where?") if isinstance(event, events.Notice)]
        assert told[0] == "the server is up"
        assert "the model was told of tools" in told[1]


async def test_it_gives_way_when_something_is_asked(root, rich):
    """The prompt takes a hundred steps; the run waits for the one that is under way."""
    slow = {"config": EngineConfig(max_step_tokens=64), "seconds_per_step": 0.02}
    setup = rich([NOBODY_READS, says("Here.")], engine=slow)
    async with await Session.create(root, setup) as session:
        while setup.engine.stats().steps < 3:
            await asyncio.sleep(0.01)
        usage = usage_of(await all_events(session, "where is it?"))
        assert 3 * 64 <= usage.reused_tokens < usage.prompt_tokens // 2
        assert usage.queue_s < 1
    setup.engine.check_integrity()


async def test_closing_ends_it(root, rich):
    setup = rich([NOBODY_READS], engine={"config": EngineConfig(max_step_tokens=64), "seconds_per_step": 0.02})
    async with await Session.create(root, setup):
        while not setup.engine.stats().steps:
            await asyncio.sleep(0.01)
    steps = setup.engine.stats().steps
    await idle(setup.engine)
    assert setup.engine.stats().steps <= steps + 2
    setup.engine.check_integrity()


async def test_a_session_that_is_gone_on_with_is_read_to_its_end(root, rich):
    setup = rich([says("Here.")], reads_ahead=False)
    async with await Session.create(root, setup) as session:
        await all_events(session, "where is it?")
        whole = len(session.ledger)
    other = rich([NOBODY_READS, says("There.")])
    async with await Session.resume(root, session.id, other) as session:
        await idle(other.engine)
        assert other.engine.stats().prompt_tokens == whole, "all was told before"
        assert usage_of(await all_events(session, "and now?")).reused_tokens == whole


async def test_what_a_run_leaves_uncomputed_is_read_after_it(root, rich):
    """One that is stopped behind a long answer of a tool, say."""
    setup = rich([NOBODY_READS, says("Here."), NOBODY_READS, says("There.")])
    async with await Session.create(root, setup) as session:
        await idle(setup.engine)
        ahead = setup.engine.stats().prompt_tokens
        usage = usage_of(await all_events(session, "where is it?"))
        await idle(setup.engine, ahead + usage.prompt_tokens)
        whole = len(session.ledger)
        assert usage_of(await all_events(session, "and now?")).reused_tokens == whole


async def test_so_it_is_after_going_back(root, rich):
    setup = rich([NOBODY_READS, says("Here."), NOBODY_READS, NOBODY_READS, says("There.")])
    async with await Session.create(root, setup) as session:
        await idle(setup.engine)
        ahead = setup.engine.stats().prompt_tokens
        first = usage_of(await all_events(session, "where is it?"))
        await session.rewind(0)
        await idle(setup.engine, ahead + first.prompt_tokens)
        assert usage_of(await all_events(session, "and now?")).reused_tokens >= ahead


async def test_a_run_that_was_cut_short_is_read_as_it_stands(root, setup_of):
    look = says("", call("view", path="calc.py"))
    setup = setup_of([look, NOBODY_READS], config=ATTENDED)
    async with await Session.create(root, setup) as session:
        run = session.send("look")
        async for event in run:
            if isinstance(event, events.CallWritten):
                break
        await run.aclose()
    other = setup_of([NOBODY_READS], config=ATTENDED, reads_ahead=True)
    async with await Session.resume(root, session.id, other) as session:
        await idle(other.engine)
        assert other.engine.stats().prompt_tokens == len(session.ledger)


async def test_a_guided_model_computes_no_prompt(root, setup_of):
    setup = setup_of([NOBODY_READS], config=ATTENDED, reads_ahead=True, profile=Profile(guided=True, system=False))
    async with await Session.create(root, setup):
        pass
    assert setup.engine.stats().prompt_tokens == 0


async def test_what_the_engine_refuses_is_left_to_who_asks_for_it(root, rich):
    setup = rich([NOBODY_READS], engine={"config": EngineConfig(max_cached_tokens=256)})
    async with await Session.create(root, setup):
        pass
    setup.engine.close()
    async with await Session.create(root, setup):
        pass
