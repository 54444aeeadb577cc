"""The conversation: a window of mounted entries over a store of all of them.

    ┌ spacer above ┐   as high as the entries before the window, by what they measured or by an estimate
    │ entry        │ ╮
    │ entry        │ │ the window: what is seen, and a few screens on either side
    │ entry        │ ╯
    └ spacer below ┘

The reader's place is held: whatever grows, shrinks, comes or goes above the first line that is seen, that line stays
where it is. At the end the transcript follows what comes, until the reader scrolls away, and again when they come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.geometry import Region, Size
from textual.layout import DockArrangeResult
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from kodkod_app.tui import store as s
from kodkod_app.tui.widgets.entry import EntryView

_OVERSCAN_SCREENS = 1.5
"""Mounted on either side of what is seen."""
_SLACK_SCREENS = 0.5
"""How near the window's edge the view may come before the window moves."""
_MIN_HEIGHT = 2
"""Of an entry that was never measured."""


class Spacer(Widget):
    """Stands for entries that are not mounted. Draws a line at a time, for it may be a hundred thousand high."""

    DEFAULT_CSS = "Spacer { width: 1fr; height: 0; }"

    def render_line(self, y: int) -> Strip:
        """Nothing, in the colour behind it."""
        del y
        return Strip([Segment(" " * self.size.width, self.rich_style)], self.size.width)


@dataclass(slots=True)
class _Pin:
    """What holds the reader's place: an entry's widget, and how far below its top the view begins."""

    view: Widget
    offset: int


class Transcript(VerticalScroll, can_focus=True):
    """Shows a store. Call `refresh_store` after changing it."""

    DEFAULT_CSS = """
    Transcript {
        height: 1fr;
        background: $background;
        scrollbar-size-vertical: 1;
        scrollbar-color: $rule;
        scrollbar-color-hover: $muted;
        scrollbar-background: $background;
        scrollbar-background-hover: $background;
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("home,g", "scroll_home", "First message", show=False),
        Binding("end,G", "follow", "Last message", show=False),
    ]
    follows: reactive[bool] = reactive(True)
    """It stays at the end as the end moves."""

    class FollowChanged(Message):
        """It follows the end, or no longer does."""

    def __init__(self, store: s.Store, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.store = store
        self._above = Spacer()
        self._below = Spacer()
        self._views: dict[int, EntryView] = {}
        self._heights: dict[int, int] = {}
        """Measured, by entry number, at the present width."""
        self._first = 0
        self._last = 0
        """The window: numbers from `_first` up to, not including, `_last`."""
        self._pin: _Pin | None = None
        self._generation = store.generation
        self._width = 0
        self._moving = asyncio.Lock()
        self._is_placing = False

    def compose(self) -> Iterator[Widget]:
        """The spacers; entries come between them."""
        yield self._above
        yield self._below

    @property
    def mounted_numbers(self) -> range:
        """Numbers of the entries that are mounted."""
        return range(self._first, self._last)

    async def refresh_store(self) -> None:
        """Show what was added to the store, and what changed in it."""
        changed = self.store.take_changed()
        if self._generation != self.store.generation:
            await self._start_over()
        for number in changed:
            if (view := self._views.get(number)) is not None:
                await view.look_again()
        await self._move_window()

    async def _start_over(self) -> None:
        async with self._moving:
            await self.remove_children(EntryView)
            self._views.clear()
            self._heights.clear()
            self._generation = self.store.generation
            self._first = self._last = len(self.store)
            self._pin = None
            self.follows = True

    def action_follow(self) -> None:
        """Go to the end and stay there."""
        self.follows = True
        self.run_worker(self._move_window(), group="window")
        self.refresh(layout=True)

    def watch_follows(self) -> None:
        """Told to whoever shows it."""
        self.post_message(self.FollowChanged())

    # What is mounted

    def _wanted(self) -> tuple[int, int]:
        """The window that belongs to the view as it stands."""
        total = len(self.store)
        screen = max(10, self.size.height)
        if self.follows:
            first = self._number_above(total, int(screen * (1 + _OVERSCAN_SCREENS)))
            return first, total
        top, bottom = self._seen_numbers()
        return self._number_above(top, int(screen * _OVERSCAN_SCREENS)), self._number_below(
            bottom, int(screen * _OVERSCAN_SCREENS)
        )

    def _number_above(self, number: int, lines: int) -> int:
        while number > 0 and lines > 0:
            number -= 1
            lines -= self._height(number)
        return number

    def _number_below(self, number: int, lines: int) -> int:
        while number < len(self.store) and lines > 0:
            lines -= self._height(number)
            number += 1
        return number

    def _seen_numbers(self) -> tuple[int, int]:
        """First entry that is seen, and the one after the last, by measure and estimate."""
        y = top = 0
        start, end = self.scroll_offset.y, self.scroll_offset.y + self.size.height
        while top < len(self.store) and y + self._height(top) <= start:
            y += self._height(top)
            top += 1
        bottom = top
        while bottom < len(self.store) and y < end:
            y += self._height(bottom)
            bottom += 1
        return top, bottom

    def _height(self, number: int) -> int:
        return self._heights.get(number) or _estimate(self.store.entries[number], max(20, self.size.width))

    async def _move_window(self) -> None:
        """Mount what belongs to the view and is not there; remove what is far from it."""
        async with self._moving:
            first, last = self._wanted()
            if self._is_near_enough(first, last):
                return
            gone = [number for number in self._views if not first <= number < last]
            stays = range(max(first, self._first), min(last, self._last))
            if not stays:
                stays = range(first, first)
            before = [self._view(number) for number in range(first, stays.start)]
            after = [self._view(number) for number in range(max(stays.stop, first), last)]
            with self.app.batch_update():
                for number in gone:
                    self._measure(number)
                self._first, self._last = first, last
                self._above.styles.height = sum(map(self._height, range(first)))
                self._below.styles.height = sum(map(self._height, range(last, len(self.store))))
                leaving = [self._views.pop(number) for number in gone]
                if before:
                    await self.mount_all(before, after=self._above)
                if after:
                    await self.mount_all(after, before=self._below)
                if leaving:
                    await self.remove_children(leaving)

    def _is_near_enough(self, first: int, last: int) -> bool:
        """Whether the window may stay: nothing wanted is missing but what is far off."""
        if self.follows:
            return last == self._last and first >= self._first and len(self._views) < 2 * max(20, last - first)
        slack = int(max(10, self.size.height) * _SLACK_SCREENS)
        top, bottom = self._seen_numbers()
        near_first, near_last = self._number_above(top, slack), self._number_below(bottom, slack)
        if near_first < self._first or near_last > self._last:
            return False
        below = sum(map(self._height, range(self._last, len(self.store))))
        self._below.styles.height = below
        return True

    def _view(self, number: int) -> EntryView:
        view = make_view(self.store.entries[number])
        self._views[number] = view
        return view

    def _measure(self, number: int) -> None:
        view = self._views[number]
        if view.is_mounted and view.outer_size.height:
            self._heights[number] = view.outer_size.height + view.styles.margin.height

    # Where the reader is

    def arrange(self, size: Size, optimal: bool = False) -> DockArrangeResult:
        """Lay the entries out, then put the view where the reader was, before anything is drawn."""
        result = super().arrange(size, optimal)
        if size.width != self._width:
            self._width = size.width
            self._heights.clear()
        if not optimal and size.height:
            self._place(result, size)
        return result

    def _place(self, result: DockArrangeResult, size: Size) -> None:
        end = max(0, result.total_region.bottom - size.height)
        if self.follows:
            y = end
        elif self._pin is None:
            return
        else:
            region = next((one.region for one in result.placements if one.widget is self._pin.view), None)
            if region is None:
                return
            y = min(end, max(0, region.y + self._pin.offset))
        if y == round(self.scroll_y):
            return
        self._is_placing = True
        try:
            self.set_reactive(Widget.scroll_y, float(y))
            self.set_reactive(Widget.scroll_target_y, float(y))
            self.vertical_scrollbar.position = y
        finally:
            self._is_placing = False

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """The reader scrolled: follow or not, hold the new place, mount what belongs there."""
        super().watch_scroll_y(old_value, new_value)
        if self._is_placing or not self.is_mounted:
            return
        self.follows = round(new_value) >= self.max_scroll_y and self._last == len(self.store)
        self._pin = None if self.follows else self._pin_at(round(new_value))
        self.run_worker(self._move_window(), group="window")

    def _pin_at(self, y: int) -> _Pin | None:
        """The first entry that is seen at this scroll position."""
        for number in range(self._first, self._last):
            view = self._views.get(number)
            if view is None or not view.is_mounted:
                continue
            region: Region = view.virtual_region
            if region.bottom > y:
                return _Pin(view, y - region.y)
        return None


def _estimate(entry: s.Entry, width: int) -> int:
    """Lines an entry takes that was never mounted."""
    match entry:
        case s.Said(text=text) | s.Note(text=text):
            return _MIN_HEIGHT + _wrapped(text, width)
        case s.Answer(text=text):
            return 1 + _wrapped(text, width)
        case s.Call(diff=diff) if diff is not None:
            return _MIN_HEIGHT + diff.unified.count("\n")
        case _:
            return _MIN_HEIGHT


def _wrapped(text: str, width: int) -> int:
    return sum(1 + len(line) // max(1, width - 4) for line in text.split("\n"))


def make_view(entry: s.Entry) -> EntryView:
    """The widget for an entry."""
    from kodkod_app.tui.widgets import messages as m
    from kodkod_app.tui.widgets.tool_call import ShellRunView, ToolCallView

    match entry:
        case s.Call():
            return ToolCallView(entry)
        case s.ShellRun():
            return ShellRunView(entry)
        case s.Answer():
            return m.AnswerView(entry)
        case s.Said():
            return m.SaidView(entry)
        case s.Checks():
            return m.ChecksView(entry)
        case s.Ending():
            return m.EndingView(entry)
        case s.Welcome():
            return m.WelcomeView(entry)
        case s.Note():
            return m.NoteView(entry)
    raise TypeError(f"no widget shows a {type(entry).__name__}")
