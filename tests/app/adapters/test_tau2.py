"""An agent of the tau2 benches, against their interface as it is written down: messages in, messages out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from kodkod_app.adapters import tau2
from kodkod_engine.messages import ToolMessage


@dataclass
class Message:
    role: str
    content: str | None = None
    tool_calls: list[Any] | None = None
    id: str = ""


@dataclass
class MultiToolMessage:
    tool_messages: list[Message]
    role: str = "tool"


@dataclass
class ToolCall:
    id: str
    name: str
    arguments: dict[str, Any]
    requestor: str


class HalfDuplexAgent:
    def __init__(self, tools, domain_policy):
        self.tools, self.domain_policy = tools, domain_policy


@dataclass
class Registry:
    factories: dict[str, Any] = field(default_factory=dict)

    def get_agent_factory(self, name):
        return self.factories.get(name)

    def register_agent_factory(self, factory, name):
        self.factories[name] = factory


PARAMETERS = {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}


class Tool:
    @property
    def openai_schema(self):
        function = {"name": "get_user", "description": "A user.", "parameters": PARAMETERS}
        return {"type": "function", "function": function}


@pytest.fixture
def registry(install):
    made = Registry()
    install(
        tau2__registry={"registry": made},
        tau2__agent__base_agent={"HalfDuplexAgent": HalfDuplexAgent},
        tau2__data_model__message={"AssistantMessage": Message, "ToolCall": ToolCall},
    )
    return made


def test_a_conversation(registry, says):
    model = says([("get_user", {"id": "u1"}), ("get_user", {"id": "u2"})], "They are Ada and Bo.")
    assert tau2.register(model) == tau2.register(model) == "kodkod"
    agent = registry.factories["kodkod"]([Tool()], "Be kind.", llm="x", llm_args={"temperature": 0.0}, task=None)
    assert isinstance(agent, HalfDuplexAgent)
    state = agent.get_init_state()
    first, state = agent.generate_next_message(Message("user", "Who are u1 and u2?"), state)
    assert first.content is None
    assert [(call.name, call.arguments, call.requestor) for call in first.tool_calls] == [
        ("get_user", {"id": "u1"}, "assistant"),
        ("get_user", {"id": "u2"}, "assistant"),
    ]
    # Results come in whatever order; the ledger wants them in that of the calls.
    results = [Message("tool", text, id=call.id) for text, call in zip(("Ada", "Bo"), first.tool_calls, strict=True)]
    second, state = agent.generate_next_message(MultiToolMessage(results[::-1]), state)
    assert (second.role, second.content, second.tool_calls) == ("assistant", "They are Ada and Bo.", None)
    view = state.ledger.view()
    assert [message.text for message in view if isinstance(message, ToolMessage)] == ["Ada", "Bo"]
    assert "Be kind." in view[0].text
    assert state.ledger.renders_back()


def test_a_history_and_silence(registry, says):
    agent = tau2.create_agent([Tool()], "Be kind.", model=says("", ""))
    history = [Message("assistant", "Hi, how can I help?"), Message("user", "Hello."), Message("tool", "late", id="x")]
    state = agent.get_init_state(history)
    answer, _ = agent.generate_next_message(Message("user", "Well?"), state)
    assert answer.content == "...", "the bench takes no empty message"
    texts = [message.text for message in state.ledger.view()]
    assert "You said: Hi, how can I help?" in texts
    assert "A tool gave: late" in texts


def test_without_the_bench():
    with pytest.raises(ImportError):
        tau2.register()
