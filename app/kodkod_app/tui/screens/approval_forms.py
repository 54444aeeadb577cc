"""What a person fills in before an answer: the rule to keep, the reason of a refusal, other arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import JsonValue, ValidationError
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Checkbox, Input, Label, Static, TextArea

from kodkod_agent.policy import Verdict
from kodkod_agent.rules import Rule
from kodkod_app.tui.inert import inert, inert_line
from kodkod_app.tui.screens.judging import Judge
from kodkod_app.tui.screens.parts import Line, Lines
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import ToolError
from kodkod_tools.registry import parse_call

_MAX_NOTE_CHARS = 300
_LIKELY = ("command", "new", "content")
"""Arguments that a person is most likely to change."""


class Note(Static):
    """One line under a form: what is wrong with it, or nothing."""

    DEFAULT_CSS = "Note { color: $text-error; height: auto; }"

    def say(self, text: str) -> None:
        """Show it; nothing when empty."""
        self.update(inert_line(text, _MAX_NOTE_CHARS))
        self.display = bool(text)


class Tick(Checkbox, inherit_bindings=False):
    """A box to tick. Whether it is ticked shows without colours too, and Enter is left to the form."""

    BUTTON_INNER = " "
    BINDINGS: ClassVar[list[BindingType]] = [Binding("space", "toggle_button", "Tick")]

    def watch_value(self) -> None:
        """Show it."""
        self.BUTTON_INNER = "X" if self.value else " "
        super().watch_value()


class RuleForm(Vertical):
    """The rules `always` would keep, to be read and changed first."""

    DEFAULT_CSS = """
    RuleForm { height: auto; }
    RuleForm Input { margin: 0; }
    RuleForm Tick { border: none; padding: 0; background: transparent; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "agree", "Always allow so"),
    ]

    @dataclass
    class Agreed(Message):
        """These rules are wanted."""

        rules: tuple[Rule, ...]
        for_good: bool
        """Kept for later sessions too."""

    def __init__(self, *, can_save: bool, id: str) -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id)
        self._can_save = can_save
        self._call = ToolCall(id="", name="")
        self._judge: Judge | None = None

    def compose(self) -> ComposeResult:
        """An input of rules; filled in by `ask`."""
        yield Label("Always allow what these rules match, for the rest of the session:", classes="form-head")
        yield Line(id="rules", placeholder="tool(pattern), several with  |  between", enter="Always allow so")
        save = Tick("in later sessions too", id="for-good", compact=True)
        save.display = self._can_save
        yield save
        yield Note(id="rule-note", markup=False)

    def ask(self, call: ToolCall, rules: tuple[Rule, ...], judge: Judge | None) -> None:
        """Show the rules of one call."""
        self._call, self._judge = call, judge
        entry = self.query_one("#rules", Input)
        entry.value = inert(" | ".join(map(str, rules)))
        entry.focus()
        self.query_one(Tick).value = False
        self.query_one("#rule-note", Note).say("")

    @on(Input.Submitted)
    def action_agree(self) -> None:
        """Keep them, if they allow the call."""
        parts = self.query_one("#rules", Input).value.split(" | ")
        try:
            rules = tuple(Rule.read(part) for part in parts if part.strip())
        except ValidationError as fault:
            self.query_one("#rule-note", Note).say(fault.errors()[0]["msg"].removeprefix("Value error, "))
            return
        cause = self._fault(rules)
        self.query_one("#rule-note", Note).say(cause)
        if not cause:
            self.post_message(self.Agreed(rules, self.query_one(Tick).value))

    def _fault(self, rules: tuple[Rule, ...]) -> str:
        if not rules:
            return "there is no rule; write one, or go back with esc"
        if self._judge is None:
            return ""
        decision = self._judge(self._call, rules)
        return "" if decision.verdict is Verdict.ALLOW else f"this would not allow the call: {decision.reason}"


class RefusalForm(Vertical):
    """Why not, in words that reach the model."""

    DEFAULT_CSS = "RefusalForm { height: auto; }"

    @dataclass
    class Refused(Message):
        """It shall not be done."""

        reason: str

    def compose(self) -> ComposeResult:
        """One input."""
        yield Label("Refuse, and tell the model why or what to do instead:", classes="form-head")
        yield Line(id="reason", placeholder="nothing said: it is told only that you refused", enter="Refuse")

    def ask(self) -> None:
        """Begin with an empty line."""
        entry = self.query_one("#reason", Input)
        entry.value = ""
        entry.focus()

    @on(Input.Submitted)
    def _refuse(self) -> None:
        self.post_message(self.Refused(self.query_one("#reason", Input).value.strip()))


class ArgumentsForm(Vertical):
    """The call's arguments, to be changed."""

    DEFAULT_CSS = """
    ArgumentsForm { height: auto; }
    ArgumentsForm VerticalScroll { height: auto; max-height: 12; }
    ArgumentsForm TextArea { height: auto; max-height: 8; min-height: 1; }
    ArgumentsForm .key { color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+s", "take", "Run it so")]

    @dataclass
    class Changed(Message):
        """Such arguments are to be taken."""

        arguments: Mapping[str, JsonValue]

    def __init__(self, *, id: str) -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id)
        self._call = ToolCall(id="", name="")
        self._judge: Judge | None = None

    def compose(self) -> ComposeResult:
        """A field per argument, put there by `ask`."""
        yield Label("Change the arguments; ctrl+s runs the call with them:", classes="form-head")
        yield VerticalScroll(id="fields", can_focus=False)
        yield Note(id="arguments-note", markup=False)

    async def ask(self, call: ToolCall, judge: Judge | None) -> None:
        """Show the arguments of one call."""
        self._call, self._judge = call, judge
        self.query_one("#arguments-note", Note).say("")
        fields = self.query_one("#fields", VerticalScroll)
        await fields.remove_children()
        for number, (key, value) in enumerate(call.arguments.items()):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            area = Lines(text, id=f"argument-{number}")
            await fields.mount(Label(inert_line(key, 60), classes="key", markup=False), area)
        areas = list(fields.query(Lines))
        likely = [area for key, area in zip(call.arguments, areas, strict=True) if key in _LIKELY]
        for area in (likely or areas)[:1]:
            area.move_cursor(area.document.end)
            area.focus()

    def action_take(self) -> None:
        """Take them, unless they are no arguments of the tool or are denied."""
        note = self.query_one("#arguments-note", Note)
        try:
            changed = dict(self._read())
            call = self._call.model_copy(update={"arguments": changed})
            parse_call(call)
        except (ValueError, ToolError) as fault:
            note.say(str(fault))
            return
        decision = self._judge(call, ()) if self._judge else None
        if decision is not None and decision.verdict is Verdict.DENY:
            note.say(f"this may not be done: {decision.reason}")
            return
        self.post_message(self.Changed(changed))

    def _read(self) -> Mapping[str, JsonValue]:
        areas = self.query(TextArea)
        found = zip(self._call.arguments.items(), areas, strict=True)
        return {key: _value(key, before, area.text) for (key, before), area in found}


def _value(key: str, before: JsonValue, text: str) -> JsonValue:
    if isinstance(before, str):
        # What could not be shown as it is stays as it was, unless the person wrote something else.
        return before if text == inert(before) else text
    try:
        value: JsonValue = json.loads(text)
    except ValueError as fault:
        raise ValueError(f"{key}: {text[:40]!r} is no JSON value ({fault})") from fault
    return value
