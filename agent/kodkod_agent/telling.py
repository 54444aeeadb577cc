"""What the program tells the model between its turns: the project's instructions, and facts of the moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kodkod_agent import events, trajectory
from kodkod_agent.context import new_instructions, prompt
from kodkod_agent.limits import Remaining
from kodkod_agent.moment import allowances, newly_low
from kodkod_agent.resources import Resources
from kodkod_agent.skills import listed
from kodkod_agent.state import AgentState
from kodkod_engine.chat.ledger_state import Origin
from kodkod_engine.chat.template import late_tools_text
from kodkod_engine.messages import ToolSpec
from kodkod_tools.mcp.names import PREFIX

_MOST_TOLD = 3
"""Times that the tools of other programs may fill their share, between two compactions."""


async def tell_facts(step: int, res: Resources) -> None:
    """The date and git's status."""
    for fact in await res.moment.facts(res.tools) if res.config.tell_facts else ():
        res.tell_model(fact, step)


def tell_tools(step: int, res: Resources) -> None:
    """Tools of other programs that came, changed or went since the model was told of them last."""
    for line in res.news():
        res.emit(events.Notice(line))
    known = {spec.name: spec for spec in res.ledger.known_tools if spec.name.startswith(PREFIX)}
    fitting, crowded = _new_tools(known, res)
    went = [name for name in known if name not in res.tools.more or name in crowded]
    if crowded and not res.crowded:
        told = "they take more than agent.max_tools_share of the model's context, or change too often"
        res.emit(events.Notice(f"the model is not told of {len(crowded)} tools: {told}: {', '.join(crowded)}"))
    res.crowded = bool(crowded)
    new, gone = res.moment.tools(fitting, went)
    if new or gone:
        span = res.ledger.declare(new, gone, introduction=prompt("tools") if new else "")
        text = res.tokenizer.decode(res.ledger.token_ids[span.start + 1 : span.end], skip_special=False)
        res.record(trajectory.Notice(text=text), step)
        names = ", ".join([*(spec.name for spec in new), *(f"no more {name}" for name in gone)])
        res.emit(events.Notice(f"the model was told of tools: {names}"))


def _new_tools(known: Mapping[str, ToolSpec], res: Resources) -> tuple[list[ToolSpec], list[str]]:
    """Those to tell of, as far as they fit, and the names of the others."""
    room = int(res.budget.context * res.config.max_tools_share)
    more = res.tools.more
    standing = sum(_size(spec, res) for name, spec in known.items() if name in more and more[name].spec == spec)
    # A program that changes its tools at every turn would fill the context with them.
    spent = sum(span.end - span.start for span in res.ledger.spans if span.origin is Origin.LATE_TOOLS)
    left = min(room - standing, _MOST_TOLD * room - spent)
    new: list[ToolSpec] = []
    crowded: list[str] = []
    for name, tool in sorted(more.items()):
        if known.get(name) == tool.spec:
            continue
        size = _size(tool.spec, res)
        if size > left:
            crowded.append(name)
            continue
        left -= size
        new.append(tool.spec)
    return new, crowded


def _size(spec: ToolSpec, res: Resources) -> int:
    """In tokens."""
    return len(res.tokenizer.encode_text(late_tools_text("", [spec], ())))


def tell_skills(known: str, step: int, res: Resources) -> AgentState:
    """What skills there are, where the model knows another list."""
    room = res.config.max_skills_chars
    listing, left_out = listed(res.skills, res.tools.work_tree, res.tools.log_folder, room) if room else ("", [])
    if listing == known:
        return AgentState()
    for text in res.moment.skills(listing):
        res.tell_model(text, step)
    if left_out:
        res.emit(events.Notice(f"the list of skills is longer than agent.max_skills_chars: {', '.join(left_out)}"))
    return AgentState(skills=listing)


def tell_standing(state: AgentState, res: Resources) -> AgentState:
    """What holds whatever the person says next: tools, skills, the project's own instructions."""
    tell_tools(state["step"], res)
    skills = tell_skills(state.get("skills", ""), state["step"], res)
    shown = show_instructions(["."], state["instructions"], state["step"], res)
    return skills | AgentState(instructions=shown)


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
