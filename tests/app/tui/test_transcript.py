"""The window over a long session: it follows, it holds the reader's place, and it mounts only what is near."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest
from textual.app import App, ComposeResult

from kodkod_app.tui import store as s
from kodkod_app.tui.widgets.tool_call import ToolCallView
from kodkod_app.tui.widgets.transcript import Transcript

MANY = 5_000


class Reader(App[None]):
    """A transcript alone."""

    CSS = "* { scrollbar-size-vertical: 1; }"

    def __init__(self, count: int) -> None:
        super().__init__()
        self.store = s.Store()
        self.animation_level = "none"
        for number in range(count):
            self.store.add(s.Note(f"note {number}" + "\nmore" * (number % 3)))

    def get_theme_variable_defaults(self) -> dict[str, str]:
        from kodkod_app.tui.themes import DARK

        return DARK.variables

    def compose(self) -> ComposeResult:
        self.transcript = Transcript(self.store)
        yield self.transcript

    async def settle(self) -> None:
        await self.transcript.refresh_store()
        await self.shown()

    async def shown(self) -> None:
        """Wait until all that belongs around the view is mounted."""
        await self.until(lambda: not self.transcript.is_moving and not self.transcript.is_incomplete)

    async def left_the_end(self) -> None:
        """Wait until a key that scrolls away from the end has done so: scrolling comes after a frame."""
        await self.until(lambda: not self.transcript.follows)

    async def until(self, is_so: Callable[[], object]) -> None:
        """Wait for something to be so."""
        async with asyncio.timeout(60):
            while not is_so():
                await asyncio.sleep(0)

    def lines(self) -> list[str]:
        return [strip.text[:-1].strip() for strip in self.screen._compositor.render_strips()]  # no scroll bar


@pytest.fixture
def reader(request: pytest.FixtureRequest) -> Reader:
    return Reader(getattr(request, "param", MANY))


async def test_of_five_thousand_entries_a_window_is_mounted_wherever_one_is(reader):
    async with reader.run_test(size=(80, 24)) as pilot:
        transcript = reader.transcript
        await reader.settle()
        await pilot.pause()
        assert transcript.mounted_numbers.stop == MANY
        assert len(transcript.children) < 80
        assert any(line.startswith("· note 4999") for line in reader.lines())
        assert transcript.max_scroll_y > 2 * MANY

        transcript.focus()
        await pilot.press("home")
        await reader.shown()
        await pilot.pause()
        assert reader.lines()[0] == "· note 0"
        assert not transcript.follows
        for place in (0.5, 0.25, 0.8):
            transcript.scroll_to(y=int(transcript.max_scroll_y * place), animate=False, immediate=True)
            await reader.shown()
            await pilot.pause()
            shown = [line for line in reader.lines() if line]
            assert len(shown) > 10
            assert len(transcript.children) < 80
        await pilot.press("end")
        await reader.shown()
        await pilot.pause()
        assert transcript.follows
        assert any(line.startswith("· note 4999") for line in reader.lines())


@pytest.mark.parametrize("reader", [60], indirect=True)
async def test_it_follows_the_end_until_the_reader_leaves_it(reader):
    async with reader.run_test(size=(80, 24)) as pilot:
        transcript = reader.transcript
        await reader.settle()
        reader.store.add(s.Note("comes"))
        await reader.settle()
        await pilot.pause()
        assert "· comes" in reader.lines()
        transcript.focus()
        await pilot.press("pageup")
        await reader.left_the_end()
        await reader.shown()
        await pilot.pause()
        before = reader.lines()
        for number in range(20):
            reader.store.add(s.Note(f"more {number}"))
            await reader.settle()
        await pilot.pause()
        assert reader.lines() == before
        await pilot.press("end")
        await reader.shown()
        await pilot.pause()
        assert transcript.follows
        assert "· more 19" in reader.lines()


@pytest.mark.parametrize("reader", [0], indirect=True)
async def test_what_unfolds_above_does_not_move_what_is_read(reader):
    for number in range(40):
        call = s.Call(str(number), "view", {"path": f"f{number}.py"}, s.CallState.DONE)
        call.say("line\n" * 30)
        reader.store.add(call)
    async with reader.run_test(size=(80, 24)) as pilot:
        transcript = reader.transcript
        await reader.settle()
        transcript.focus()
        await pilot.press("pageup")
        await reader.left_the_end()
        await reader.shown()
        await pilot.pause()
        first = next(line for line in reader.lines() if line)
        above = [view for view in transcript.query(ToolCallView) if view.region.bottom <= transcript.region.y]
        assert above
        above[-1].set_unfolded(True)
        await pilot.pause()
        await pilot.pause()
        assert above[-1].outer_size.height > 30
        assert next(line for line in reader.lines() if line) == first


@pytest.mark.parametrize("reader", [200], indirect=True)
async def test_a_call_stays_as_the_reader_folded_it_while_they_read_elsewhere(reader):
    call = s.Call("c", "view", {"path": "f.py"}, s.CallState.DONE)
    call.say("a line\n" * 3)
    reader.store.add(call)
    async with reader.run_test(size=(80, 24)) as pilot:
        await reader.settle()
        await pilot.pause()
        assert "│ a line" not in reader.lines()
        reader.transcript.query_one(ToolCallView).set_unfolded(True)
        reader.transcript.focus()
        await pilot.press("home")
        await reader.shown()
        assert not reader.transcript.query(ToolCallView)
        await pilot.press("end")
        await reader.shown()
        await pilot.pause()
        assert "│ a line" in reader.lines()


async def resized(reader, pilot, width, height):
    """Give it another size, and wait for what belongs there."""
    await pilot.resize_terminal(width, height)
    await pilot.pause()
    await reader.shown()
    await pilot.pause()


def numbers_seen(reader):
    return [int(number) for line in reader.lines() for number in re.findall(r"word(\d+)", line)]


@pytest.mark.parametrize("reader", [0], indirect=True)
async def test_the_reader_keeps_their_place_in_a_long_answer_when_the_terminal_is_resized(reader):
    reader.store.add(s.Answer("\n\n".join(" ".join(f"word{n}" for n in range(m, m + 40)) for m in range(0, 2_000, 40))))
    async with reader.run_test(size=(120, 36)) as pilot:
        await reader.settle()
        await pilot.pause()
        for _ in range(2):
            reader.transcript.scroll_relative(y=-30, animate=False, immediate=True)
        await reader.shown()
        await pilot.pause()
        before, first = reader.lines(), numbers_seen(reader)[0]
        assert not reader.transcript.follows
        await resized(reader, pilot, 50, 20)
        assert abs(numbers_seen(reader)[0] - first) < 200  # there are 2,000, and lines are twice as many
        assert not reader.transcript.follows
        await resized(reader, pilot, 120, 36)
        assert reader.lines() == before


@pytest.mark.parametrize("reader", [0], indirect=True)
async def test_after_a_resize_there_are_as_many_lines_as_at_that_width(reader):
    """Those of entries that are not mounted were of the width before: the next page up led to the end again."""
    for words in (1_000, 1_000, 1_500):
        reader.store.add(s.Answer("word " * words))
    async with reader.run_test(size=(120, 36)) as pilot:
        transcript = reader.transcript
        await reader.settle()
        await pilot.pause()
        transcript.scroll_relative(y=-60, animate=False, immediate=True)
        await reader.shown()
        transcript.action_follow()
        await reader.shown()
        await pilot.pause()
        before = transcript.max_scroll_y
        await resized(reader, pilot, 30, 10)
        assert transcript.max_scroll_y > 3 * before
        await resized(reader, pilot, 120, 36)
        assert transcript.max_scroll_y == before
        assert transcript.follows


@pytest.mark.parametrize("reader", [30], indirect=True)
async def test_entries_that_change_are_shown_so_and_a_reset_begins_anew(reader):
    async with reader.run_test(size=(80, 24)) as pilot:
        await reader.settle()
        answer = s.Answer("Be", is_open=True)
        reader.store.add(answer)
        await reader.settle()
        for text in ("gin", "ning **bold** [red]not markup[/red]", "\n\n- a\n- b"):
            answer.text += text
            reader.store.touch(answer)
            await reader.settle()
        answer.is_open = False
        reader.store.touch(answer)
        await reader.settle()
        await reader.until(lambda: "Beginning bold [red]not markup[/red]" in reader.lines())
        reader.store.reset([s.Said("only this")])
        await reader.settle()
        await pilot.pause()
        [line] = [line for line in reader.lines() if line]
        assert line.endswith("only this")
        assert len(reader.transcript.children) == 2


@pytest.mark.parametrize("reader", [400], indirect=True)
async def test_an_answer_that_is_scrolled_away_while_it_is_written_is_whole_when_one_comes_back(reader):
    async with reader.run_test(size=(80, 24)) as pilot:
        transcript = reader.transcript
        await reader.settle()
        answer = s.Answer("It ", is_open=True)
        reader.store.add(answer)
        await reader.settle()
        transcript.focus()
        for number in range(12):
            answer.text += f"word{number} "
            reader.store.touch(answer)
            if number == 3:
                await pilot.press("home")
            await reader.settle()
        assert transcript.mounted_numbers.stop < 400
        answer.is_open = False
        reader.store.touch(answer)
        await reader.settle()
        await pilot.press("end")
        await reader.shown()
        await reader.until(lambda: "It word0 word1 word2" in "\n".join(reader.lines()))
        assert "word11" in "\n".join(reader.lines())


@pytest.mark.parametrize("reader", [0], indirect=True)
async def test_text_is_selected_with_the_mouse_over_entries(reader):
    reader.store.add(s.Said("first [b]words[/b]"))
    reader.store.add(s.Note("second line"))
    async with reader.run_test(size=(80, 24)) as pilot:
        await reader.settle()
        await pilot.pause()
        rows = [row for row, line in enumerate(reader.lines()) if line]
        await pilot.mouse_down(offset=(4, rows[0]))
        await pilot.hover(offset=(12, rows[1]))
        await pilot.mouse_up(offset=(12, rows[1]))
        await pilot.pause()
        selected = reader.screen.get_selected_text()
        assert selected is not None
        assert "[b]words[/b]" in selected
        assert "second" in selected
