"""`/v1/chat/completions`: messages in, a message out, whole or as it comes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from kodkod_app.serving.constraints import constraint_for
from kodkod_app.serving.conversation import messages_of, specs_of
from kodkod_app.serving.faults import bad
from kodkod_app.serving.memory import Prompt
from kodkod_app.serving.replies import (
    CallReply,
    ChatChoice,
    ChatChunk,
    ChatDelta,
    ChatLogprobs,
    ChatReply,
    FunctionReply,
    MessageReply,
    TokenLogprobReply,
    TopLogprob,
)
from kodkod_app.serving.requests import ChatRequest
from kodkod_app.serving.service import Service, new_id, sampling_of, seed_of
from kodkod_app.serving.speaking import Ended, Piece, SpokenTurn, begin_all, merged
from kodkod_app.serving.telling import finite, token_text, usage_reply
from kodkod_engine.api import GenerationRequest, TokenLogprob, TokenStream
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import ToolCall, ToolSpec


@dataclass(slots=True)
class Chat:
    """One request that was begun. Its streams run until they are read to their end or it is closed."""

    service: Service
    request: ChatRequest
    prompt: Prompt
    specs: tuple[ToolSpec, ...]
    streams: list[TokenStream]
    id: str = field(default_factory=lambda: new_id("chatcmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    async def begin(cls, service: Service, request: ChatRequest) -> Chat:
        """Queue a request.

        Raises:
            ApiFault: it cannot be served.
        """
        if request.top_logprobs and not request.logprobs:
            raise bad("top_logprobs: goes with logprobs; set that to true, or leave this out", "top_logprobs")
        specs, messages = specs_of(request.tools or ()), messages_of(request.messages)
        recording = service.model.is_recording  # it says again what it said: no constraint changes that
        constraint = None if recording else constraint_for(request, specs, service.tokenizer)
        prompt = await asyncio.to_thread(service.prompts.build, messages, specs)
        room = max(1, service.engine.max_context_tokens - len(prompt.token_ids))
        seed = seed_of(request)
        asked = [
            sampling_of(
                request,
                index=index,
                seed=seed,
                max_tokens=request.max_completion_tokens or request.max_tokens or room,
                stops=(),
                logprobs=(request.top_logprobs or 0) if request.logprobs else None,
            )
            for index in range(request.n or 1)
        ]
        requests = [GenerationRequest(prompt.token_ids, sampling, constraint) for sampling in asked]
        return cls(service, request, prompt, specs, begin_all(service.engine, requests, "messages"))

    def close(self) -> None:
        """Stop what is still generated."""
        for stream in self.streams:
            stream.cancel()

    def _turns(self) -> list[SpokenTurn]:
        tokenizer = self.service.tokenizer
        return [SpokenTurn(stream, tokenizer, self.specs, self.request.stops) for stream in self.streams]

    async def whole(self) -> ChatReply:
        """The whole answer.

        Raises:
            ApiFault: the engine failed.
        """
        turns = self._turns()
        found: list[list[Piece]] = [[] for _ in turns]
        async with aclosing(merged([turn.pieces() for turn in turns])) as pieces:
            async for index, piece in pieces:
                found[index].append(piece)
        choices = [self._choice(index, turn, found[index]) for index, turn in enumerate(turns)]
        ends = [_ended(pieces) for pieces in found]
        for turn in turns:
            self._remember(turn)
        self._tell_cost(ends)
        told = self._prompt_ids() if self.request.return_token_ids else {}
        return ChatReply(
            id=self.id,
            object="chat.completion",
            created=self.created,
            model=self.service.name,
            system_fingerprint=self.service.fingerprint,
            choices=choices,
            usage=usage_reply(ends),
            **told,
        )

    def _remember(self, turn: SpokenTurn) -> None:
        self.service.turns.remember(self.prompt, turn.message, turn.whole_ids())

    def _tell_cost(self, ends: Sequence[Ended]) -> None:
        self.service.told_cost("chat", [end.usage for end in ends], sum(end.completion_tokens for end in ends))

    def _choice(self, index: int, turn: SpokenTurn, pieces: Sequence[Piece]) -> ChatChoice:
        said = turn.message
        message = MessageReply(role="assistant", content=said.text if said.text or not said.calls else None)
        if said.reasoning:
            message = message.model_copy(update={"reasoning_content": said.reasoning})
        if said.calls:
            calls = [call_reply(call) for call in said.calls]
            message = message.model_copy(update={"tool_calls": calls})
        entries = [entry for piece in pieces for entry in piece.logprobs]
        return ChatChoice(
            index=index, message=message, finish_reason=_ended(pieces).reason, **self._extras(turn.token_ids, entries)
        )

    def _extras(self, token_ids: Sequence[int], entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Fields that are there where they were asked for."""
        found: dict[str, Any] = {}
        if self.request.logprobs:
            found["logprobs"] = chat_logprobs(self.service.tokenizer, entries)
        if self.request.return_token_ids:
            found["token_ids"] = list(token_ids)
        return found

    def _prompt_ids(self) -> dict[str, Any]:
        return {"prompt_token_ids": list(self.prompt.token_ids)}

    async def chunks(self) -> AsyncGenerator[ChatChunk, None]:
        """The answer as it comes.

        Raises:
            ApiFault: the engine failed.
        """
        turns = self._turns()
        ends: list[Ended] = []
        num_calls = [0] * len(turns)
        for index in range(len(turns)):
            opening = MessageReply(role="assistant", content="")
            yield self._chunk([ChatDelta(index=index, delta=opening, finish_reason=None)], opens=True)
        async with aclosing(merged([turn.pieces() for turn in turns])) as pieces:
            async for index, piece in pieces:
                if piece.ended is not None:  # known before the client can send it back
                    self._remember(turns[index])
                    ends.append(piece.ended)
                for delta in self._deltas(index, piece, num_calls[index]):
                    yield self._chunk([delta])
                num_calls[index] += len(piece.calls)
        self._tell_cost(ends)
        if self.request.includes_usage:
            yield self._chunk([]).model_copy(update={"usage": usage_reply(ends)})

    def _deltas(self, index: int, piece: Piece, num_calls: int) -> Iterator[ChatDelta]:
        extras = self._extras(piece.token_ids, piece.logprobs) if piece.token_ids else {}
        said: dict[str, Any] = {}
        if piece.reasoning:
            said["reasoning_content"] = piece.reasoning
        if piece.text or (extras and not piece.calls):
            said["content"] = piece.text
        if piece.calls:
            said["tool_calls"] = [call_reply(call, number) for number, call in enumerate(piece.calls, num_calls)]
        if said:
            yield ChatDelta(index=index, delta=MessageReply.model_validate(said), finish_reason=None, **extras)
        if piece.ended is not None:
            yield ChatDelta(index=index, delta=MessageReply(), finish_reason=piece.ended.reason)

    def _chunk(self, choices: list[ChatDelta], *, opens: bool = False) -> ChatChunk:
        told = self._prompt_ids() if opens and self.request.return_token_ids else {}
        return ChatChunk(
            id=self.id,
            object="chat.completion.chunk",
            created=self.created,
            model=self.service.name,
            system_fingerprint=self.service.fingerprint,
            choices=choices,
            **told,
        )


def call_reply(call: ToolCall, index: int | None = None) -> CallReply:
    """A call for the client, under an id of its own."""
    function = FunctionReply(name=call.name, arguments=json.dumps(dict(call.arguments), ensure_ascii=False))
    reply = CallReply(id=new_id("call_"), type="function", function=function)
    return reply if index is None else reply.model_copy(update={"index": index})


def chat_logprobs(tokenizer: Tokenizer, entries: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Log-probabilities as chats have them."""
    return ChatLogprobs(content=[_logprob(tokenizer, entry) for entry in entries])


def _logprob(tokenizer: Tokenizer, entry: TokenLogprob) -> TokenLogprobReply:
    text, data = token_text(tokenizer, entry.token_id)
    top = [_top(tokenizer, token_id, logprob) for token_id, logprob in entry.top]
    return TokenLogprobReply(token=text, logprob=finite(entry.logprob), bytes=data, top_logprobs=top)


def _top(tokenizer: Tokenizer, token_id: int, logprob: float) -> TopLogprob:
    text, data = token_text(tokenizer, token_id)
    return TopLogprob(token=text, logprob=finite(logprob), bytes=data)


def _ended(pieces: Sequence[Piece]) -> Ended:
    ended = pieces[-1].ended
    assert ended is not None
    return ended
