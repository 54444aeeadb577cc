"""Everything that can be set, read off the settings themselves, and written to the person's file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.markup import escape
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

from kodkod_app.settings import SettingsFault
from kodkod_app.settings_fields import SettingField, Source, read_typed
from kodkod_app.tui.inert import inert_line
from kodkod_app.tui.screens.once import Once
from kodkod_app.tui.screens.parts import Heading, Line, Options

_KEY_WIDTH = 30
Load = Callable[[], list[SettingField]]
"""The settings as they are now."""
Save = Callable[[str, Any], None]
"""Writes one key; None takes it out. Raises `SettingsFault`."""


class SettingsScreen(Once[tuple[str, ...]]):
    """See the module. Dismisses the keys that were changed."""

    DEFAULT_CSS = """
    SettingsScreen Input { margin: 0 1; }
    SettingsScreen OptionList, SettingsScreen OptionList:focus {
        height: 1fr; margin: 1 1 0 1; border: none; padding: 0; background: transparent; scrollbar-size-vertical: 1;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    SettingsScreen #about { height: 5; padding: 0 1; border-top: solid $rule; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+d", "forget", "Default", priority=True),
        Binding("up", "move(-1)", show=False),
        Binding("down", "move(1)", show=False),
        Binding("pageup", "move(-10)", show=False),
        Binding("pagedown", "move(10)", show=False),
        Binding("escape", "close", "Close"),
    ]

    def __init__(self, load: Load, save: Save, path: str) -> None:
        """Show them.

        Args:
            load: reads the settings.
            save: writes one.
            path: of the file that is written, for the person.
        """
        super().__init__()
        self._load = load
        self._save = save
        self._path = path
        self._fields: list[SettingField] = []
        self._changed: dict[str, None] = {}

    def compose(self) -> ComposeResult:
        """A line to type in, the settings, and what is known of the one under the cursor."""
        yield Heading("Settings", self._path)
        yield Line(placeholder="search", enter="Change")
        yield OptionList()
        yield Static(id="about")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Show them all."""
        self.query_one(Input).focus()
        self._read()

    def _read(self) -> None:
        entries = self.query_one(OptionList)
        at, top = entries.highlighted, entries.scroll_offset.y
        try:
            self._fields = self._load()
        except SettingsFault as fault:
            self.notify(inert_line(str(fault), 400), severity="error", markup=False)
        self._list()
        entries.highlighted = at if at is not None else entries.highlighted
        entries.scroll_to(y=top, animate=False)

    @on(Input.Changed)
    def _list(self) -> None:
        words = self.query_one(Input).value.casefold().split()
        found = [one for one in self._fields if all(word in f"{one.key} {one.doc}".casefold() for word in words)]
        entries = self.query_one(OptionList)
        entries.clear_options()
        entries.add_options([Option(_row(field), id=field.key) for field in found])
        entries.highlighted = 0 if found else None
        if not found:
            self.query_one("#about", Static).update(Content.styled("no setting has these words", "dim"))

    @property
    def _field(self) -> SettingField | None:
        entries = self.query_one(OptionList)
        if entries.highlighted is None:
            return None
        key = entries.get_option_at_index(entries.highlighted).id
        return next((field for field in self._fields if field.key == key), None)

    @on(OptionList.OptionHighlighted)
    def _tell(self) -> None:
        if (field := self._field) is not None:
            self.query_one("#about", Static).update(_about(field))

    # What the person does

    def action_move(self, by: int) -> None:
        """The cursor, while the line keeps the keys."""
        entries = self.query_one(OptionList)
        if entries.option_count:
            entries.highlighted = max(0, min(entries.option_count - 1, (entries.highlighted or 0) + by))

    @on(OptionList.OptionSelected)
    @on(Input.Submitted)
    @work
    async def action_change(self) -> None:
        """Ask for another value."""
        field = self._field
        if field is None:
            return
        if await self.app.push_screen_wait(ValueScreen(field, lambda text: self._set(field, read_typed(text)))):
            self._read()

    def action_forget(self) -> None:
        """Take it out of the person's file."""
        if (field := self._field) is not None and field.saved is not None:
            if fault := self._set(field, None):
                self.notify(fault, severity="error", markup=False)
            self._read()

    def _set(self, field: SettingField, value: Any) -> str:
        """Returns what is wrong with it; empty when it is saved."""
        if isinstance(value, int | float) and field.kind in ("text", "a path"):
            value = str(value)
        try:
            self._save(field.key, value)
        except SettingsFault as fault:
            return inert_line(str(fault), 400)
        self._changed[field.key] = None
        return ""

    def action_close(self) -> None:
        """Done."""
        self.dismiss(tuple(self._changed))


class ValueScreen(ModalScreen[bool], Once[bool]):
    """Another value for one setting. Dismisses whether it was saved."""

    DEFAULT_CSS = """
    ValueScreen { align: center middle; background: $background 40%; }
    ValueScreen Vertical {
        width: 76; max-width: 95%; height: auto; padding: 0 1; background: $surface; border: round $primary;
        border-title-style: bold;
    }
    ValueScreen OptionList, ValueScreen OptionList:focus {
        height: auto; max-height: 10; border: none; padding: 0; background: transparent;
    }
    ValueScreen .words { color: $text-muted; margin-bottom: 1; }
    ValueScreen #fault { color: $text-error; height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Leave it")]

    def __init__(self, field: SettingField, save: Callable[[str], str]) -> None:
        """Ask; `save` returns what is wrong."""
        super().__init__()
        self._field = field
        self._save = save

    def compose(self) -> ComposeResult:
        """Its choices, or a line to type in."""
        with Vertical() as box:
            box.border_title = escape(self._field.key)
            yield Static(inert_line(self._field.doc), classes="words", markup=False)
            if self._field.choices:
                yield Options(*(Option(Content(choice), id=choice) for choice in self._field.choices))
            else:
                yield Line(self._field.value, placeholder=self._field.kind)
            yield Static(id="fault", markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The value as it is comes first."""
        if self._field.choices:
            choices = self.query_one(OptionList)
            is_known = self._field.value in self._field.choices
            choices.highlighted = self._field.choices.index(self._field.value) if is_known else 0
            choices.focus()
        else:
            self.query_one(Input).focus()

    @on(OptionList.OptionSelected)
    def _choose(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._try(str(event.option.id))

    @on(Input.Submitted)
    def _take(self, event: Input.Submitted) -> None:
        event.stop()
        self._try(event.value.strip())

    def _try(self, text: str) -> None:
        if fault := self._save(text):
            self.query_one("#fault", Static).update(fault)
        else:
            self.dismiss(True)

    def action_leave(self) -> None:
        """As it is."""
        self.dismiss(False)


def _row(field: SettingField) -> Content:
    colour = "" if field.source is Source.DEFAULT else "bold"
    value = inert_line(field.value, 100)
    return Content.assemble(
        f"{inert_line(field.key, 60):<{_KEY_WIDTH}}  ",
        (value or "not set", colour if value else "dim"),
        (f"  {field.source}" if field.source is not Source.DEFAULT else "", "$text-accent"),
    )


def _about(field: SettingField) -> Content:
    lines = [Content(inert_line(field.doc))]
    lines.append(
        Content.styled(f"{inert_line(field.kind, 120)}; default {inert_line(field.default, 80) or 'not set'}", "dim")
    )
    if field.saved is not None and field.source not in (Source.USER, Source.DEFAULT):
        said = f"your file says {inert_line(field.saved, 60)}, but here the {field.source} has the last word"
        lines.append(Content.styled(said, "$text-warning"))
    return Content("\n").join(lines)
