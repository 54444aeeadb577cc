"""The conversation: a window of mounted entries over a store of all of them.

    entries before the window    not mounted; their lines are left free, as measured once or as estimated
    the window                   mounted: what is seen, and a screen or so on either side
    entries after the window     as those before it

The reader's place is held: whatever grows, shrinks, comes or goes above the first line that is seen, that line stays
where it is. At the end the transcript follows what comes, until the reader scrolls away, and again when they come back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.geometry import Region, Size
from textual.layout import DockArrangeResult, WidgetPlacement
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from kodkod_app.tui import store as s
from kodkod_app.tui.heights import Heights
from kodkod_app.tui.widgets.entry import EntryView
from kodkod_app.tui.widgets.views import make_view
from kodkod_app.tui.window import OVERSCAN_SCREENS, Sight, Window

_REST_S = 0.03
"""After the frame that a key led to, and before what is around it is mounted."""
_MIN_SCREEN_LINES = 10
"""Assumed before the first layout, and of a very low window."""


class End(Widget):
    """Marks the end of all entries, mounted or not."""

    DEFAULT_CSS = "End { width: 1fr; height: 0; }"

    def render(self) -> RenderResult:
        """Nothing."""
        return ""


@dataclass(frozen=True, slots=True)
class _Pin:
    """What holds the reader's place: an entry's widget, and how far below its top the view begins."""

    view: Widget
    offset: int
    lines: int
    """The widget's."""
    width: int
    """At which all this was so."""

    def offset_in(self, lines: int, width: int) -> int:
        """How far below its top the same words are now: at another width, lines are broken elsewhere."""
        return self.offset if width == self.width else round(self.offset * lines / max(1, self.lines))


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
        self._view_size = Size()
        """As it is laid out; `size` is what it was before until that is done."""
        self._lines_above = self._lines_below = 0
        """Left free for what is not mounted."""
        self._end = End()
        self._views: dict[int, EntryView] = {}
        self._heights = Heights()
        self._window = Window(self._heights)
        self._pin: _Pin | None = None
        self._generation = store.generation
        self._moving = asyncio.Lock()
        self._is_scrolling = False
        """The reader goes elsewhere just now: all may be laid out before it is known where that is."""
        self._is_called = False
        """Whatever moves the window is about to begin."""

    def compose(self) -> Iterator[Widget]:
        """The end; entries come before it."""
        yield self._end

    @property
    def mounted_numbers(self) -> range:
        """Numbers of the entries that are mounted."""
        return self._window.numbers

    @property
    def is_moving(self) -> bool:
        """Entries are being mounted or removed."""
        return self._moving.locked()

    @property
    def is_incomplete(self) -> bool:
        """Something that belongs around the view is not mounted yet, or something far from it still is."""
        if not self._is_current:
            return False  # all is to begin anew, with the next look at the store
        sight, window = self._sight(), self._window
        return bool(window.missing(sight) or window.missing_around(sight) or window.far(sight))

    async def refresh_store(self) -> None:
        """Show what was added to the store, and what changed in it."""
        changed = self.store.take_changed()
        if self._generation != self.store.generation:
            await self._start_over()
        for number in changed:
            if (view := self._views.get(number)) is not None:
                await view.look_again()
        async with self._moving:
            await self._mount_seen()
        self._look_around()

    async def _start_over(self) -> None:
        async with self._moving:
            await self.remove_children(EntryView)
            self._views.clear()
            self._heights.clear()
            self._generation = self.store.generation
            self._window.begin_at(len(self.store))
            self._pin = None
            self.follows = True

    def action_follow(self) -> None:
        """Go to the end and stay there."""
        self.follows = True
        self.refresh(layout=True)
        self._look_around()

    def watch_follows(self) -> None:
        """Told to whoever shows it."""
        self.post_message(self.FollowChanged())

    # What is mounted

    def _look_around(self) -> None:
        """Mount and remove what the view, where it is now, asks for; once the one that does so already is done."""
        if not self._is_called and not self._moving.locked() and self.is_incomplete:
            self._is_called = True
            self.run_worker(self._move_window(), group="window")

    async def _move_window(self) -> None:
        """What is seen at once. What is around it when the frame is out, and as one: each time all is laid out anew."""
        async with self._moving:
            self._is_called = False
            rested_s = 0.0
            while self.is_incomplete:
                if self._missing():
                    await self._mount_seen()
                    rested_s = 0.0
                elif rested_s < _REST_S:
                    await asyncio.sleep(_REST_S / 3)
                    rested_s += _REST_S / 3
                else:
                    await self._mount_around()
            self._leave_room()

    async def _mount_seen(self) -> None:
        """What the view shows; where the window is elsewhere it begins anew here."""
        with self.app.batch_update():
            while numbers := self._missing():
                # Asked each time: while some were mounted, the reader or the end may have gone elsewhere.
                if self._window.is_close(self._sight()):
                    await self._mount_entries(numbers)
                else:
                    await self._jump()
        self._leave_room()

    async def _mount_around(self) -> None:
        """As long as the reader does not go elsewhere meanwhile."""
        with self.app.batch_update():
            while self._window.is_close(self._sight()) and (numbers := self._missing(OVERSCAN_SCREENS)):
                await self._mount_entries(numbers)
            await self._remove_far()

    def _sight(self) -> Sight:
        self._heights.fit(self.store.entries, self._view_size.width)
        screen_lines = max(_MIN_SCREEN_LINES, self._view_size.height)
        return Sight(self.scroll_offset.y, screen_lines, len(self.store), self.follows)

    def _missing(self, margin_screens: float = 0.0) -> range:
        """See `Window.missing`; none while all is to begin anew, with the next look at the store."""
        return self._window.missing(self._sight(), margin_screens) if self._is_current else range(0)

    @property
    def _is_current(self) -> bool:
        return self._generation == self.store.generation

    async def _jump(self) -> None:
        """Begin the window anew where the view is."""
        await self.remove_children(EntryView)
        self._views.clear()
        self._pin = None
        self._window.begin_anew(self._sight())
        self._leave_room()

    async def _mount_entries(self, numbers: range) -> None:
        views = [make_view(self.store.entries[number]) for number in numbers]
        is_before = numbers.start < self._window.first < self._window.last
        before: Widget = self._views[self._window.first] if is_before else self._end
        self._views.update(zip(numbers, views, strict=True))
        self._window.grow(numbers)
        self._leave_room()
        await self.mount_all(views, before=before)

    async def _remove_far(self) -> None:
        if gone := self._window.let_go(self._sight()):
            leaving = [self._views.pop(number) for number in gone]
            self._leave_room()
            await self.remove_children(leaving)

    def _leave_room(self) -> None:
        if self._window.room != (self._lines_above, self._lines_below):
            self._lines_above, self._lines_below = self._window.room
            self._end.refresh(layout=True)  # which has the transcript arranged anew

    # Where the reader is

    def process_layout(self, placements: list[WidgetPlacement]) -> list[WidgetPlacement]:
        """Leave room before the first entry, and before the mark of the end."""
        moved = [one._replace(region=one.region.translate((0, self._lines_above))) for one in placements]
        if moved and self._lines_below:
            last = moved[-1]
            end = last.region.y + self._lines_below
            moved[-1] = last._replace(region=Region(last.region.x, end - 1, last.region.width, 1))
        return moved

    def arrange(self, size: Size, optimal: bool = False) -> DockArrangeResult:
        """Lay the entries out, then put the view where the reader was, before anything is drawn."""
        is_drawn = not optimal and bool(size.height)
        if is_drawn:
            self._fit(size)
        result = super().arrange(size, optimal)
        if is_drawn:
            self._measure(result)
            self._place(result, size)
            self._look_around()
        return result

    def _fit(self, size: Size) -> None:
        """At another width all are as high as they are there, those too that are not mounted."""
        self._view_size = size
        if self._is_current:
            self._heights.fit(self.store.entries, size.width)
            self._leave_room()

    def _measure(self, result: DockArrangeResult) -> None:
        for placement in result.placements:
            if isinstance(placement.widget, EntryView) and placement.region.height:
                lines = placement.region.height + placement.margin.bottom
                self._heights.measure(placement.widget.entry.number, lines)

    def _place(self, result: DockArrangeResult, size: Size) -> None:
        end = max(0, result.placements[-1].region.bottom - size.height) if result.placements else 0
        if self._is_scrolling:
            return
        if self.follows:
            y = end
        elif self._pin is None:
            self._pin = self._pin_in(result, round(self.scroll_y), size.width)
            return
        else:
            pin = self._pin
            region = next((one.region for one in result.placements if one.widget is pin.view), None)
            if region is None:
                return
            y = min(end, max(0, region.y + pin.offset_in(region.height, size.width)))
        if y != round(self.scroll_y):
            self.set_reactive(Widget.scroll_y, float(y))
            self.set_reactive(Widget.scroll_target_y, float(y))
            self.vertical_scrollbar.position = y

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """The reader scrolled: follow or not, hold the new place, mount what belongs there."""
        self._is_scrolling = True
        super().watch_scroll_y(old_value, new_value)
        if self.is_mounted:
            self.follows = round(new_value) >= self.max_scroll_y and self._window.last == len(self.store)
            self._pin = None if self.follows else self._pin_at(round(new_value))
            self._look_around()
        self._is_scrolling = False

    def _pin_at(self, y: int) -> _Pin | None:
        """The first entry that is seen at this scroll position."""
        for number in self.mounted_numbers:
            view = self._views.get(number)
            if view is not None and view.is_mounted and view.virtual_region.bottom > y:
                return _pin(view, view.virtual_region, y, self._view_size.width)
        return None

    def _pin_in(self, result: DockArrangeResult, y: int, width: int) -> _Pin | None:
        """The same, where the reader went to before anything was mounted there."""
        seen = (one for one in result.placements if isinstance(one.widget, EntryView) and one.region.bottom > y)
        first = next(seen, None)
        return None if first is None else _pin(first.widget, first.region, y, width)


def _pin(view: Widget, region: Region, y: int, width: int) -> _Pin:
    return _Pin(view, y - region.y, region.height, width)
