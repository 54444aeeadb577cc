"""Calls that wait for a person's word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from kodkod_agent.approval import Approval
from kodkod_agent.events import ApprovalRequest
from kodkod_app.tui.inert import inert
from kodkod_app.tui.updates import CallFacts
from kodkod_app.tui.widgets.diff import DiffView
from kodkod_app.tui.widgets.entry import PlainText


class ApprovalScreen(ModalScreen[tuple[Approval, ...] | None]):
    """Yes or no to all of them; Esc interrupts the run."""

    DEFAULT_CSS = """
    ApprovalScreen {
        align: center bottom;
        background: $background 40%;
        & > Vertical {
            height: auto;
            max-height: 80%;
            border: round $primary;
            background: $background;
            padding: 0 1;
            margin: 0 1;
        }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "decide(True)", "Once"),
        Binding("n", "decide(False)", "Refuse"),
        Binding("escape", "dismiss(None)", "Interrupt"),
    ]

    def __init__(self, requests: Sequence[ApprovalRequest], facts: Sequence[CallFacts]) -> None:
        super().__init__()
        self._requests = tuple(requests)
        self._facts = tuple(facts)

    def compose(self) -> ComposeResult:
        """What would be done, and why it is asked."""
        with Vertical():
            for request, facts in zip(self._requests, self._facts, strict=True):
                yield PlainText(inert(f"{request.call.name}: {request.reason}  ({facts.where})"))
                if facts.diff is not None:
                    yield DiffView(inert(facts.diff.unified), facts.diff.path)
            yield PlainText("y once   n refuse   esc interrupt")

    def action_decide(self, is_allowed: bool) -> None:
        """For all of them."""
        self.dismiss(tuple(Approval(call_id=request.call.id, allowed=is_allowed) for request in self._requests))
