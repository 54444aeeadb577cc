"""What the graph remembers between nodes: small, plain values, written to the checkpoint after every node.

The conversation is not in here. It is in the ledger's log (`ledger_log.py`); the state has the log's length in bytes,
so a checkpoint costs the same at the first step and at the five hundredth. A call's arguments are read back from the
ledger as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypedDict

from pydantic import JsonValue


class Node(StrEnum):
    """The rooms of the graph. A node's update names the next one under `next`."""

    PREPARE = "prepare"
    MODEL = "model"
    GATE = "gate"
    TOOLS = "tools"
    VERIFY = "verify"
    FINISH = "finish"


class Status(StrEnum):
    """How a run ended."""

    RUNNING = "running"
    """Not yet."""
    DONE = "done"
    """Finished and verified; or, with a person there, answered."""
    UNVERIFIED = "unverified"
    """Finished, but nothing shows that it works."""
    LIMIT = "limit"
    INTERRUPTED = "interrupted"
    FAULT = "fault"
    """The engine, the box or the agent failed."""

    @property
    def exit_code(self) -> int:
        """What a command ends with."""
        return _EXIT_CODES[self]


_EXIT_CODES = {
    Status.RUNNING: 1,
    Status.DONE: 0,
    Status.UNVERIFIED: 3,
    Status.LIMIT: 124,
    Status.INTERRUPTED: 130,
    Status.FAULT: 1,
}


class Ruling(TypedDict, total=False):
    """What is to become of one call."""

    allowed: bool
    reason: str
    """For the model, when it is not allowed."""
    arguments: dict[str, JsonValue]
    """The arguments a person put in place of the model's."""
    by_person: bool
    asked: list[str]
    """What the person was asked about (`Decision.asked`): nothing else may be done of it."""


class AgentState(TypedDict, total=False):
    """See the module. Keys above the line last for the session, those below are set anew by every `send`."""

    ledger_mark: int
    """Bytes of the ledger log that belong to this state."""
    step: int
    """Turns of the model in the session so far: the number a fork or a rewind names."""
    instructions: list[str]
    """Instruction files that are in the conversation."""
    skills: str
    """The list of skills that the model was told."""
    plan_only: bool
    """The model was told that nothing may be changed."""
    mode: str
    """The permission mode the model knows of: a `PermissionMode`."""

    next: str
    """The node that follows: a `Node`."""
    inbox: list[str]
    """What the person said, not yet in the ledger."""
    first_step: int
    """Steps before this run."""
    base_snapshot: str
    """The work tree before this run."""
    goes_on: bool
    """With what an earlier run was about."""
    origin_snapshot: str
    """The work tree before the first run of those that go on with one another."""
    rebuilds: int
    """Times the conversation was shortened."""
    told_budgets: list[str]
    """What the model was told is nearly used up."""
    generated_tokens: int
    prompt_tokens: int
    reused_tokens: int
    active_s: float
    """Seconds at work; waiting for a person's answer does not count."""
    nudges: int
    """Turns without a call that were answered by a reminder."""
    malformed: int
    """Malformed or unknown calls in a row."""
    loop_warnings: int
    stop_objections: int
    """Times a hook objected to the run's end."""
    verifications: int
    rulings: dict[str, Ruling]
    """By call id; empty once the calls are done."""
    summary: str
    """The model's last word."""
    tests_before: dict[str, JsonValue]
    tests_after: dict[str, JsonValue]
    end_snapshot: str
    """And after it; empty while it goes on."""
    status: str
    """A `Status`."""
    reason: str
    """One line: why the run ended as it did."""


def new_session(ledger_mark: int) -> AgentState:
    """What lasts for the session, at its start."""
    return AgentState(ledger_mark=ledger_mark, step=0, instructions=[], skills="", plan_only=False, mode="")


def new_run(text: str, *, step: int, after: Mapping[str, Any] | None = None) -> AgentState:
    """The input of a run: everything below the line, set anew.

    Args:
        after: where an earlier one stood that this one goes on with: what they change is measured from before both.
    """
    earlier = after or {}
    return AgentState(
        next=Node.PREPARE,
        inbox=[text],
        first_step=step,
        base_snapshot="",
        goes_on=after is not None,
        origin_snapshot=earlier.get("origin_snapshot", "") or earlier.get("base_snapshot", ""),
        rebuilds=0,
        told_budgets=[],
        generated_tokens=0,
        prompt_tokens=0,
        reused_tokens=0,
        active_s=0.0,
        nudges=0,
        malformed=0,
        loop_warnings=0,
        stop_objections=0,
        verifications=0,
        rulings={},
        summary="",
        tests_before=earlier.get("tests_before", {}),
        tests_after={},
        end_snapshot="",
        status=Status.RUNNING,
        reason="",
    )


def origin_of(state: AgentState) -> str:
    """The snapshot from which what a run changed is measured; empty before it has begun."""
    return state.get("origin_snapshot") or state["base_snapshot"]  # none in a run that an earlier version began


def plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state or an update in built-in types alone: a checkpoint names no class, so none is loaded from one."""
    return {key: value.value if isinstance(value, StrEnum) else value for key, value in state.items()}
