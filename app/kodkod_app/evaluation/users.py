"""Who talks to the agent: a script, or the model in the user's place. Either may have tools of their own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

from kodkod_agent.model_turn import run_turn
from kodkod_app.bootstrap import Model
from kodkod_app.evaluation.desk import Desk
from kodkod_app.evaluation.suite import Reply, ToolPlan, User
from kodkod_app.evaluation.transcript import Made, Transcript
from kodkod_engine.api import SamplingParams
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.messages import ToolCall, ToolMessage

LEAVES = "###STOP###"
"""What a model in the user's place says when all is done."""
_MAX_CALLS_IN_A_ROW = 5
_SCENARIO = """\
You are a customer who writes to a service desk. Stay in this role; you are not the assistant.

{scenario}

Give what is asked for, and nothing else, in a sentence or two. Use your own tools when you are asked to do something.
When what you want is done, or cannot be had, answer with {leaves} alone."""


class Talker(Protocol):
    """A user of one dialogue."""

    async def open(self) -> str:
        """The first word."""
        ...

    async def answer(self, text: str) -> str | None:
        """To what the agent said; None where the user leaves."""
        ...


@dataclass(slots=True)
class ScriptedUser:
    """Answers by rules: the first that fits what the agent said."""

    user: User
    desk: Desk
    transcript: Transcript
    _used: set[int] = field(default_factory=set)
    _answers: int = 0
    _has_left: bool = False

    async def open(self) -> str:
        """See `Talker`."""
        return self.user.opening

    async def answer(self, text: str) -> str | None:
        """See `Talker`."""
        if self._has_left or self._answers >= self.user.most:
            return None
        self._answers += 1
        for number, reply in enumerate(self.user.replies):
            if number not in self._used and re.search(reply.when, text):
                if reply.once:
                    self._used.add(number)
                return self._say(reply)
        return self.user.otherwise or None

    def _say(self, reply: Reply) -> str | None:
        result = ""
        if reply.do is not None:
            result = self.desk.call(reply.do.name, reply.do.arguments, by_user=True)
            self.transcript.calls.append(Made(reply.do.name, reply.do.arguments, result, by_user=True))
        self._has_left = reply.ends
        return None if reply.ends else reply.say.replace("{result}", result)


class ModelUser:
    """A model in the user's place, with a conversation of its own."""

    def __init__(
        self, user: User, tools: tuple[ToolPlan, ...], desk: Desk, transcript: Transcript, model: Model, seed: int
    ) -> None:
        self._user, self._desk, self._transcript, self._model = user, desk, transcript, model
        self._sampling = SamplingParams(temperature=0.7, seed=seed, max_tokens=512)
        system = _SCENARIO.format(scenario=user.scenario or user.opening, leaves=LEAVES)
        self._ledger = TokenLedger.open(model.tokenizer, [tool.spec for tool in tools], system)
        self._answers = 0

    async def open(self) -> str:
        """See `Talker`. The scenario's own opening: how a dialogue begins is not left to chance."""
        return self._user.opening

    async def answer(self, text: str) -> str | None:
        """See `Talker`."""
        self._answers += 1
        if self._answers > self._user.most:
            return None
        self._ledger.append_user(text)
        for _ in range(_MAX_CALLS_IN_A_ROW):
            turn = await run_turn(self._model.engine, self._ledger, self._sampling, lambda _: None)
            if not turn.message.calls:
                said = turn.message.text.strip()
                return None if not said or LEAVES in said else said
            self._ledger.append_tool_results([self._use(call) for call in turn.message.calls])
        return None

    def _use(self, call: ToolCall) -> ToolMessage:
        result = self._desk.call(call.name, call.arguments, by_user=True)
        self._transcript.calls.append(Made(call.name, dict(call.arguments), result, by_user=True, fault=call.fault))
        return ToolMessage(call_id=call.id, text=result)
