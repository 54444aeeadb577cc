"""Esc in the middle of decoding, by the real engine with a small random model that writes on and on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kodkod_app.bootstrap import demonstration_checkpoint
from kodkod_app.tui import store as s

from . import conftest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model computes; a busy machine computes slowly."""
    monkeypatch.setattr(conftest, "TIMEOUT_S", 200.0)


async def test_esc_in_the_middle_of_decoding_ends_the_run_and_the_next_is_answered(
    open_app: Callable[..., Any], project: Path
) -> None:
    async with open_app(str(demonstration_checkpoint())) as driver:
        await driver.opened()
        for text in ("write on and on", "and again"):
            await driver.say(text)
            await driver.until(lambda: driver.app.is_busy and driver.app.meter.tokens_per_s > 0, "tokens")
            endings = len(driver.entries(s.Ending))
            await driver.pilot.press("escape")
            await driver.idle()
            assert driver.entries(s.Ending)[endings].status == "interrupted"
        assert [entry.text for entry in driver.entries(s.Said)] == ["write on and on", "and again"]
