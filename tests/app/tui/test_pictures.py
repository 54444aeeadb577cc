"""Pictures of the chat in its states, wide and 80x24, in every look. `pytest --snapshot-update` takes them anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot

from . import gallery

WIDE, SMALL = (120, 40), (80, 24)
PICTURES = [
    *((scene, "dark", WIDE) for scene in gallery.SCENES),
    *((scene, "dark", SMALL) for scene in ("chat", "markdown", "plan_and_queue", "commands", "writing", "hostile")),
    *((scene, "light", WIDE) for scene in ("chat", "markdown", "states")),
    *((scene, "ansi", SMALL) for scene in ("chat", "states")),
    *((scene, "contrast", SMALL) for scene in ("chat", "states")),
]


@pytest.fixture(autouse=True)
def version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures do not change with a release."""
    monkeypatch.setattr("kodkod_app.tui.app.version", lambda _: "1.0.0")


async def settled(pilot: Pilot[int]) -> None:
    """The scene is there and nothing moves any more."""
    app = pilot.app
    assert isinstance(app, gallery.Still)
    while not app.is_settled:
        await pilot.pause(0.01)
    await pilot.pause()


@pytest.mark.parametrize(
    ("scene", "theme", "size"), PICTURES, ids=lambda part: part if isinstance(part, str) else f"{part[0]}x{part[1]}"
)
def test_looks_as_it_did(snap_compare: Callable[..., bool], scene: str, theme: str, size: Any) -> None:
    assert snap_compare(gallery.still(gallery.SCENES[scene], theme), terminal_size=size, run_before=settled)


def test_without_colour_everything_is_told_all_the_same(
    snap_compare: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = gallery.still(gallery.SCENES["states"])
    assert app.no_color
    assert snap_compare(app, terminal_size=SMALL, run_before=settled)


@pytest.mark.parametrize("size", [(40, 12), (20, 6), (250, 80)])
@pytest.mark.parametrize("scene", ["chat", "commands", "hostile"])
async def test_any_size_will_do(scene: str, size: tuple[int, int]) -> None:
    app = gallery.still(gallery.SCENES[scene])
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        await pilot.resize_terminal(size[1] * 2, size[0] // 2)
        await pilot.pause()
        assert app.is_running
