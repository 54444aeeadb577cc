"""A plan, as models write it: a Markdown task list in an answer."""

from __future__ import annotations

import re

from kodkod_app.tui.store import PlanState, PlanStep

_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+\[([ xX~>-])\]\s+(\S.*)$", re.MULTILINE)
_STATES = {
    " ": PlanState.PENDING,
    "x": PlanState.DONE,
    "~": PlanState.ACTIVE,
    ">": PlanState.ACTIVE,
    "-": PlanState.ACTIVE,
}
_MIN_STEPS = 2
"""One box is a remark, not a plan."""


def read_plan(text: str) -> tuple[PlanStep, ...]:
    """The steps of the task list in a text; empty where there is none."""
    steps = tuple(PlanStep(words.strip(), _STATES[mark.lower()]) for mark, words in _ITEM.findall(text))
    return steps if len(steps) >= _MIN_STEPS else ()
