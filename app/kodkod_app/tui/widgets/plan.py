"""The model's plan: its steps, and where each stands."""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from kodkod_app.tui.store import PlanState, PlanStep

_MAX_SHOWN = 6
_LOOKS = {
    PlanState.PENDING: ("○", ""),
    PlanState.ACTIVE: ("◐", "bold $primary"),
    PlanState.DONE: ("●", "$muted strike"),
}


class PlanList(Widget):
    """Shows the steps; of a long plan those around the one that is next."""

    DEFAULT_CSS = """
    PlanList {
        height: auto;
        max-height: 30vh;
        margin: 0 2;
        padding: 0 1;
        border-left: outer $secondary;
        text-wrap: nowrap;
        text-overflow: ellipsis;
        display: none;
    }
    """
    steps: reactive[tuple[PlanStep, ...]] = reactive((), layout=True)

    def watch_steps(self) -> None:
        """It is there while there is something left to do."""
        self.display = any(step.state is not PlanState.DONE for step in self.steps)

    def render(self) -> RenderResult:
        """A heading and the steps."""
        done = sum(step.state is PlanState.DONE for step in self.steps)
        first = max(0, min(done - 1, len(self.steps) - _MAX_SHOWN))
        shown = self.steps[first : first + _MAX_SHOWN]
        head = Content.assemble(("plan ", "bold $secondary"), (f"{done} of {len(self.steps)}", "$muted"))
        return Content("\n").join([head, *(_line(step) for step in shown)])


def _line(step: PlanStep) -> Content:
    mark, style = _LOOKS[step.state]
    return Content.assemble((f"{mark} ", "$secondary"), (step.text, style))
