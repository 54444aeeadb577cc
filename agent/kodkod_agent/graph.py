"""The graph: the only file that wires LangGraph.

    prepare ─► model ─► gate ─► tools ─► verify ─► finish
       ▲         │                │         │
       └─────────┴────────────────┴─────────┘

Each node's update names the node that follows. One wrapper around every node sees to what they share: the ledger is
the one the state belongs to, time is limited, and a `RunFlow` ends the run in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import interrupt

from kodkod_agent import nodes
from kodkod_agent.calls import answer_pending
from kodkod_agent.errors import RunFlow
from kodkod_agent.limits import out_of_time, remaining
from kodkod_agent.resources import Resources
from kodkod_agent.state import AgentState, Node, plain

NodeFunction = Callable[[AgentState, Resources], Awaitable[AgentState]]
Graph = CompiledStateGraph[AgentState, None, AgentState, AgentState]

NODES: dict[Node, NodeFunction] = {
    Node.PREPARE: nodes.prepare,
    Node.MODEL: nodes.model,
    Node.GATE: partial(nodes.gate, ask=interrupt),
    Node.TOOLS: nodes.tools,
    Node.VERIFY: nodes.verify,
    Node.FINISH: nodes.finish,
}
_FOLLOWERS: dict[Node, tuple[Node, ...]] = {
    Node.PREPARE: (Node.PREPARE, Node.MODEL, Node.FINISH),
    Node.MODEL: (Node.GATE, Node.PREPARE, Node.FINISH),
    Node.GATE: (Node.TOOLS, Node.FINISH),
    Node.TOOLS: (Node.PREPARE, Node.VERIFY, Node.FINISH),
    Node.VERIFY: (Node.FINISH, Node.PREPARE),
}


def build_graph(res: Resources, saver: BaseCheckpointSaver[str]) -> Graph:
    """The compiled graph of one session."""
    builder = StateGraph(AgentState)
    for name, node in NODES.items():
        builder.add_node(name, partial(_guarded, name, node, res))
    builder.add_edge(START, Node.PREPARE)
    for name, followers in _FOLLOWERS.items():
        builder.add_conditional_edges(name, _next, {str(follower): str(follower) for follower in followers})
    builder.add_edge(Node.FINISH, END)
    return builder.compile(checkpointer=saver)


async def _next(state: AgentState) -> str:  # LangGraph sends what is not async to a thread
    return state["next"]


async def _guarded(name: Node, node: NodeFunction, res: Resources, state: AgentState) -> dict[str, Any]:
    try:
        _settle_ledger(name, state, res)
        update = await _to_its_end(name, node, state, res)
        _heed_cancel()
    except GraphBubbleUp:
        raise
    except BaseException:
        res.is_stale = True
        raise
    return plain({**update, "active_s": res.stopwatch.seconds})


def _heed_cancel() -> None:
    """End here what was told to end: who is awaited may have taken that for its own end, and nobody tells it twice."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _to_its_end(name: Node, node: NodeFunction, state: AgentState, res: Resources) -> AgentState:
    try:
        return await _in_time(name, node, state, res)
    except RunFlow as flow:
        return end_run(flow, res)


def _settle_ledger(name: Node, state: AgentState, res: Resources) -> None:
    """Make the ledger the one the state speaks of. A turn that was written behind the mark is left for `model`."""
    mark = state["ledger_mark"]
    if not res.is_stale and res.log.mark == mark:
        return
    res.ledger = res.log.load(res.tokenizer, mark, cut=name is not Node.MODEL)
    res.stream_id, res.is_stale = None, False


async def _in_time(name: Node, node: NodeFunction, state: AgentState, res: Resources) -> AgentState:
    if name in (Node.GATE, Node.FINISH):
        return await node(state, res)
    left = remaining(res.config, state, res.stopwatch.seconds)
    try:
        async with asyncio.timeout(max(0.0, left.seconds)) as limit:
            return await node(state, res)
    except TimeoutError:
        if limit.expired():
            raise out_of_time(res.config) from None
        raise


def end_run(flow: RunFlow, res: Resources) -> AgentState:
    """Close the conversation as it stands and say why; what was said and done so far stays."""
    answer_pending(flow.reason, res)
    for message in flow.messages:
        res.tell_model(message, res.step)
    return AgentState(
        next=Node.FINISH,
        status=flow.status,
        reason=flow.reason,
        inbox=[],
        rulings={},
        ledger_mark=res.log.sync(res.ledger),
    )
