"""Tasks of tools and talk: the agent calls tools of a world, and answers its user, turn by turn.

    user ─► ledger ─► model ─► calls? ─► desk ─► results ─► model ─► words ─► user ─► ...

It is the same ledger, parser and engine as in kodkod's own loop, with the world's tools in place of kodkod's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kodkod_agent.model_turn import Turn, run_turn
from kodkod_app.bootstrap import Model
from kodkod_app.evaluation.desk import Desk
from kodkod_app.evaluation.transcript import Made, Transcript
from kodkod_app.evaluation.users import Talker
from kodkod_engine.api import SamplingParams
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.errors import PromptTooLong
from kodkod_engine.messages import ToolCall, ToolMessage, ToolSpec

_MAX_ERRORS = 10
"""Calls in a row that cannot be read, before a dialogue ends."""


@dataclass(slots=True)
class Dialogue:
    """One conversation. Used once."""

    model: Model
    ledger: TokenLedger
    sampling: SamplingParams
    transcript: Transcript
    max_turns: int
    _parent_id: str | None = None
    _errors: int = 0

    @classmethod
    def begin(
        cls,
        model: Model,
        specs: Sequence[ToolSpec],
        policy: str,
        sampling: SamplingParams,
        transcript: Transcript,
        max_turns: int,
    ) -> Dialogue:
        """A conversation of which nothing was said: tools declared, policy given."""
        ledger = TokenLedger.open(model.tokenizer, specs, policy or None)
        return cls(model, ledger, sampling, transcript, max_turns)

    async def hold(self, talker: Talker, desk: Desk) -> None:
        """To its end: the user leaves, or a limit is met.

        Raises:
            EngineError: the engine failed.
        """
        self._hear(await talker.open())
        while self.transcript.turns < self.max_turns and self._errors < _MAX_ERRORS:
            turn = await self.turn()
            if turn is None:
                return
            if turn.message.calls:
                self.ledger.append_tool_results([self._use(call, desk) for call in turn.message.calls])
                continue
            answer = await talker.answer(turn.message.text)
            if answer is None:
                return
            self._hear(answer)
        self.transcript.exit_status = "turn limit" if self._errors < _MAX_ERRORS else "too many malformed calls"

    async def ask(self, prompt: str) -> None:
        """One turn, nothing run: what the agent would call.

        Raises:
            EngineError: the engine failed.
        """
        self._hear(prompt)
        turn = await self.turn()
        for call in turn.message.calls if turn is not None else ():
            self.transcript.calls.append(Made(call.name, dict(call.arguments), "", fault=call.fault))

    async def turn(self) -> Turn | None:
        """The agent's next turn; None where the context is full."""
        try:
            turn = await run_turn(
                self.model.engine, self.ledger, self.sampling, lambda _: None, parent_id=self._parent_id
            )
        except PromptTooLong:
            self.transcript.exit_status = "context full"
            return None
        self._parent_id = turn.stream_id
        if self.transcript.turns == 0:
            self.transcript.first_calls = turn.message.calls
        self.transcript.count(turn.usage)
        self.transcript.said.append(("agent", turn.message.text))
        return turn

    def _hear(self, text: str) -> None:
        self.transcript.said.append(("user", text))
        self.ledger.append_user(text)

    def _use(self, call: ToolCall, desk: Desk) -> ToolMessage:
        if call.fault is not None:
            self._errors += 1
            result = f'{{"error": "the call could not be read: {call.fault}"}}'
        else:
            self._errors = 0
            result = desk.call(call.name, call.arguments)
        self.transcript.calls.append(Made(call.name, dict(call.arguments), result, fault=call.fault))
        return ToolMessage(call_id=call.id, text=result)
