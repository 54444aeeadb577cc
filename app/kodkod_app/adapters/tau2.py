"""The tau2 benches: kodkod's engine as an agent of theirs, without a server between.

    from kodkod_app.adapters.tau2 import register
    register()                       # then: tau2 run --domain retail --agent kodkod ...

The conversation is a ledger: what the model wrote stays as it was written, and a turn costs its new tokens.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kodkod_app.adapters.asking import next_turn, sampling_of, shared_model
from kodkod_app.bootstrap import Model
from kodkod_engine.api import SamplingParams
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.messages import ToolMessage, ToolSpec

NAME = "kodkod"
_INSTRUCTION = """\
You are a customer service agent that helps the user according to the policy below. In each turn either write to the \
user or call tools, not both.

{policy}"""


@dataclass(slots=True)
class State:
    """Of one conversation."""

    ledger: TokenLedger
    ids: dict[str, str]
    """The bench's ids of the calls that wait for results, to the ledger's."""


def register(model: Model | None = None) -> str:
    """Make the agent known to tau2; the name it is known by.

    Raises:
        ImportError: tau2 (the bench, not the project of that name on the package index) is not installed.
    """
    from tau2.registry import registry  # type: ignore[import-not-found]  # it is not on the package index

    def factory(tools: Sequence[Any], domain_policy: str, **arguments: Any) -> Any:
        return create_agent(tools, domain_policy, model=model, **arguments)

    if registry.get_agent_factory(NAME) is None:
        registry.register_agent_factory(factory, NAME)
    return NAME


def create_agent(tools: Sequence[Any], domain_policy: str, *, model: Model | None = None, **arguments: Any) -> Any:
    """An agent for one task; what tau2 calls a factory.

    Args:
        tools: of the domain, each with its `openai_schema`.
        domain_policy: its text.
        model: None for the process's own.
        arguments: `llm_args` are how it samples; the others do not matter here.
    """
    from tau2.agent.base_agent import HalfDuplexAgent  # type: ignore[import-not-found]  # as above

    kind = type("KodkodAgent", (Turns, HalfDuplexAgent), {})
    agent = kind(tools=list(tools), domain_policy=domain_policy)
    agent.kodkod_model, agent.kodkod_sampling = model, sampling_of(arguments.get("llm_args"))
    return agent


class Turns:
    """What makes an agent of the bench ours; the bench's own base class comes behind it."""

    tools: Sequence[Any]
    domain_policy: str
    kodkod_model: Model | None
    kodkod_sampling: SamplingParams

    def get_init_state(self, message_history: Iterable[Any] | None = None) -> State:
        """A conversation of which what is in the history was said."""
        model = self.kodkod_model or shared_model()
        policy = _INSTRUCTION.format(policy=self.domain_policy)
        state = State(TokenLedger.open(model.tokenizer, specs_of(self.tools), policy), {})
        for message in message_history or ():
            take_in(message, state)
        return state

    def generate_next_message(self, message: Any, state: State) -> tuple[Any, State]:
        """The agent's next message after the user's, or after results of tools."""
        from tau2.data_model.message import AssistantMessage, ToolCall  # type: ignore[import-not-found]  # as above

        take_in(message, state)
        said = next_turn(self.kodkod_model or shared_model(), state.ledger, self.kodkod_sampling).message
        calls = []
        for call in said.calls:
            name = f"call_{uuid.uuid4().hex[:12]}"
            state.ids[name] = call.id
            calls.append(ToolCall(id=name, name=call.name, arguments=dict(call.arguments), requestor="assistant"))
        # The bench takes either words or calls, and words that are not empty.
        text = None if calls else said.text.strip() or "..."
        return AssistantMessage(role="assistant", content=text, tool_calls=calls or None), state


def specs_of(tools: Iterable[Any]) -> list[ToolSpec]:
    """Declarations out of the bench's tools."""
    functions = (tool.openai_schema["function"] for tool in tools)
    return [
        ToolSpec(
            name=function["name"],
            description=function.get("description", ""),
            parameters=function.get("parameters") or {"type": "object", "properties": {}},
        )
        for function in functions
    ]


def take_in(message: Any, state: State) -> None:
    """Write a message of the bench into the ledger; the agent's own are there, but for those of a history."""
    role = getattr(message, "role", None)
    if hasattr(message, "tool_messages"):
        _results(message.tool_messages, state)
    elif role == "tool":
        _results([message], state)
    elif role == "assistant":
        state.ledger.append_notice(f"You said: {message.content}" if message.content else "You called tools.")
    elif message is not None:
        state.ledger.append_user(message.content or "")


def _results(messages: Sequence[Any], state: State) -> None:
    """Results of the agent's calls, in any order; those of calls in a history are told as notices."""
    known = [message for message in messages if message.id in state.ids]
    for message in messages:
        if message.id not in state.ids:
            state.ledger.append_notice(f"A tool gave: {message.content}")
    if known:
        results = [ToolMessage(call_id=state.ids.pop(one.id), text=one.content or "") for one in known]
        state.ledger.append_tool_results(results)
