"""What the program tells the model between its turns: the project's instructions, and facts of the moment."""

from __future__ import annotations

from collections.abc import Sequence

from kodkod_agent import events
from kodkod_agent.context import new_instructions, prompt
from kodkod_agent.limits import Remaining
from kodkod_agent.moment import allowances, newly_low
from kodkod_agent.resources import Resources
from kodkod_agent.state import AgentState


async def tell_facts(step: int, res: Resources) -> None:
    """The date and git's status."""
    for fact in await res.moment.facts(res.tools) if res.config.tell_facts else ():
        res.tell_model(fact, step)


def tell_mode(state: AgentState, res: Resources) -> AgentState:
    """The mode may change at any time; what that means is told before the next turn."""
    mode, plan_only = res.permissions.mode, res.permissions.plan_only
    if state["plan_only"] != plan_only:
        res.tell_model(prompt("plan" if plan_only else "work"), state["step"])
    elif res.config.tell_facts:
        for notice in res.moment.mode(state.get("mode", ""), mode):
            res.tell_model(notice, state["step"])
    return AgentState(plan_only=plan_only, mode=mode)


def tell_budgets(left: Remaining, state: AgentState, res: Resources) -> AgentState:
    """What is nearly used up, once for each share it comes down to."""
    if not res.config.tell_facts:
        return AgentState()
    low, told = newly_low(allowances(res.config, left), state)
    for notice in res.moment.budgets(low):
        res.tell_model(notice, state["step"])
        res.emit(events.Notice(notice))
    return AgentState(told_budgets=told)


def show_instructions(touched: Sequence[str], known: Sequence[str], step: int, res: Resources) -> list[str]:
    """Append the project's instructions for these paths; returns all that were shown by now."""
    new = new_instructions(res.tools, touched, known, res.config.max_instruction_chars)
    for path, text in new:
        res.tell_model(prompt("instructions", path=path, text=text), step)
    return [*known, *(path for path, _ in new)]
