"""Esc in the middle of decoding, by the real engine with a small random model that writes on and on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pytest

from kodkod_agent.resources import Resources
from kodkod_app.bootstrap import demonstration_checkpoint
from kodkod_app.tui import store as s
from kodkod_engine.chat.tokenizer import Tokenizer

from ..conftest import git
from . import conftest
from .conftest import Driver

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model computes; a busy machine computes slowly."""
    monkeypatch.setattr(conftest, "TIMEOUT_S", 200.0)


class Letters:
    """A turn of letters that has no end: left to itself a random model ends its own, at times before Esc is pressed."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids = frozenset(tokenizer.encode_text("write on and on"))

    def allowed_ids(self, generated_ids: Sequence[int]) -> Collection[int]:
        del generated_ids
        return self._ids


@pytest.fixture(autouse=True)
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model does not stop by itself."""

    async def constraint(res: Resources) -> Letters:
        return Letters(res.tokenizer)

    monkeypatch.setattr(Resources, "constraint", constraint)


async def interrupted(driver: Driver, text: str) -> None:
    """Say something, and press Esc once tokens come."""
    before, endings = driver.app.workbench.stats.generated_tokens, len(driver.entries(s.Ending))
    await driver.say(text)
    await driver.until(lambda: driver.app.workbench.stats.generated_tokens > before + 3, "tokens")
    await driver.pilot.press("escape")
    await driver.idle()
    assert [ending.status for ending in driver.entries(s.Ending)[endings:]] == ["interrupted"]


async def test_esc_in_the_middle_of_decoding_ends_the_run_and_the_session_goes_on(
    open_app: Callable[..., Any], project: Path
) -> None:
    """What was said stays, though no turn was finished, over a start as well; until a rewind takes it away."""
    said = ["write on and on", "and again"]
    model = str(demonstration_checkpoint())
    async with open_app(model) as driver:
        await driver.opened()
        session_id = driver.app.session_id
        for text in said:
            await interrupted(driver, text)
        assert [entry.text for entry in driver.entries(s.Said)] == said
    async with open_app(model, wish={"session_id": session_id}) as driver:
        await driver.opened()
        assert [entry.text for entry in driver.entries(s.Said)] == said
        await interrupted(driver, "once more")
    assert git(project, "status", "--porcelain") == ""
