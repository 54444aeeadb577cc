"""One answer while it is generated: from the engine's chunks to what a client is told, piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeVar

from kodkod_app.serving.faults import ApiFault, of_engine
from kodkod_app.serving.replies import FinishWord
from kodkod_engine.api import Engine, FinishReason, GenerationRequest, TokenChunk, TokenLogprob, TokenStream, Usage
from kodkod_engine.chat import events as parsed
from kodkod_engine.chat.parser import OutputParser, parse_turn
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.stop_strings import StopStrings
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.errors import EngineError
from kodkod_engine.messages import AssistantMessage, ToolCall, ToolSpec

_ItemT = TypeVar("_ItemT")


@dataclass(frozen=True, slots=True)
class Ended:
    """How an answer ended."""

    reason: FinishWord
    usage: Usage
    completion_tokens: int
    """Those before a stop string was met; the engine may have generated some more before it stopped."""


@dataclass(frozen=True, slots=True)
class Piece:
    """More of an answer. The last piece alone has `ended`."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    ended: Ended | None = None


def begin_all(engine: Engine, requests: Sequence[GenerationRequest], prompt: str) -> list[TokenStream]:
    """Queue requests; all of them, or none. `prompt`: the parameter that theirs is in.

    Raises:
        ApiFault: one cannot be served.
    """
    streams: list[TokenStream] = []
    try:
        for request in requests:
            streams.append(engine.generate(request))
    except EngineError as fault:
        for stream in streams:
            stream.cancel()
        raise of_engine(fault, prompt) from fault
    return streams


async def spoken_text(stream: TokenStream) -> AsyncGenerator[Piece, None]:
    """A continuation as text; the engine minds the stop strings.

    Raises:
        ApiFault: the engine failed.
    """
    try:
        async for chunk in stream:
            ended = None
            if chunk.finish_reason is not None:
                assert chunk.usage is not None
                ended = Ended(_word(chunk), chunk.usage, chunk.usage.generated_tokens)
            yield Piece(text=chunk.text, token_ids=chunk.token_ids, logprobs=chunk.logprobs, ended=ended)
    finally:
        stream.cancel()


@dataclass(slots=True)
class SpokenTurn:
    """A turn of a conversation. Used once."""

    stream: TokenStream
    tokenizer: Tokenizer
    specs: Sequence[ToolSpec]
    stop_strings: tuple[str, ...] = ()
    """Looked for in the prose alone: neither in reasoning nor in calls."""
    token_ids: list[int] = field(default_factory=list)
    """What was generated, up to the token that completed a stop string."""
    _text: str = ""
    _reasoning: str = ""
    _calls: list[ToolCall] = field(default_factory=list)
    _stopped: bool = False

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """What the model says, as it comes.

        Raises:
            ApiFault: the engine failed.
        """
        parser, stops = OutputParser(self.tokenizer, self.specs), StopStrings(self.stop_strings)
        try:
            async for chunk in self.stream:
                is_last = chunk.finish_reason is not None
                if self._stopped:  # what comes now is what the engine had begun when it was told to stop
                    if is_last:
                        yield Piece(ended=self._ended(chunk))
                    continue
                yield self._piece(chunk, parser, stops)
        finally:
            self.stream.cancel()

    def _piece(self, chunk: TokenChunk, parser: OutputParser, stops: StopStrings) -> Piece:
        told = _Told(stops)
        num_told = self._read(chunk.token_ids, parser, told)
        if chunk.finish_reason is not None:
            for event in parser.finish():
                told.take(event)
            told.text += stops.flush()
        self._stopped = stops.stopped
        if self._stopped:
            self.stream.cancel()
        ids, logprobs = chunk.token_ids[:num_told], chunk.logprobs[:num_told]
        self.token_ids += ids
        self._text += told.text
        self._reasoning += told.reasoning
        self._calls += told.calls
        ended = self._ended(chunk) if chunk.finish_reason is not None else None
        return Piece(told.text, told.reasoning, tuple(told.calls), ids, logprobs, ended)

    @staticmethod
    def _read(ids: Sequence[int], parser: OutputParser, told: _Told) -> int:
        """Have ids told, up to the one that completes a stop string; how many those are."""
        for count, token_id in enumerate(ids, start=1):
            for event in parser.push([token_id]):
                told.take(event)
            if told.stops.stopped:
                return count
        return len(ids)

    def _ended(self, chunk: TokenChunk) -> Ended:
        assert chunk.usage is not None
        word: FinishWord = "stop" if self._stopped else _word(chunk)
        if self._calls and word == "stop":
            word = "tool_calls"
        return Ended(word, chunk.usage, len(self.token_ids))

    @property
    def message(self) -> AssistantMessage:
        """What was told so far. A call that cannot be read is told as the text it is."""
        return AssistantMessage(text=self._text, reasoning=self._reasoning, calls=tuple(self._calls))

    def whole_ids(self) -> list[int]:
        """The turn as it stands in a prompt: what was told of it, in the ids that were generated, with an end."""
        ids = list(self.token_ids)
        if self._stopped:
            ids = self._without_stop(ids)
        return ids if ids[-1:] == [self.tokenizer.eos_id] else [*ids, self.tokenizer.eos_id]

    def _without_stop(self, ids: list[int]) -> list[int]:
        """The ids before those that hold the stop string, then the rest of the prose anew."""
        text = self._text
        while ids:
            kept = parse_turn(self.tokenizer, ids, self.specs).text
            if text.startswith(kept):
                return ids + self.tokenizer.encode_text(text[len(kept) :])
            ids = ids[:-1]
        return self.tokenizer.encode_text(text)


@dataclass(slots=True)
class _Told:
    """Events of one chunk, taken together."""

    stops: StopStrings
    text: str = ""
    reasoning: str = ""
    calls: list[ToolCall] = field(default_factory=list)

    def take(self, event: parsed.ParserEvent) -> None:
        match event:
            case _ if self.stops.stopped:
                pass
            case parsed.TextDelta(text):
                self.text += self.stops.push(text)[0]
            case parsed.ReasoningDelta(text):
                self.reasoning += text
            case parsed.CallStarted():
                self.text += self.stops.flush()
            case parsed.CallFinished(call) if call.fault is None:
                self.calls.append(call)
            case parsed.CallFinished(call):
                self.text += f"{Tag.TOOL_CALL}{call.raw}{Tag.TOOL_CALL_END}"
            case _:
                pass


def _word(chunk: TokenChunk) -> FinishWord:
    """Why an answer ended, as clients know it.

    Raises:
        ApiFault: it has no end of its own.
    """
    match chunk.finish_reason:
        case FinishReason.STOP:
            return "stop"
        case FinishReason.LENGTH:
            return "length"
        case FinishReason.CANCELLED:
            raise ApiFault(HTTPStatus.SERVICE_UNAVAILABLE, "the server is closing; ask again later", code="closing")
        case _:
            message = chunk.error or "the engine failed"
            raise ApiFault(HTTPStatus.INTERNAL_SERVER_ERROR, message, code="engine_failed")


async def merged(streams: Sequence[AsyncGenerator[_ItemT, None]]) -> AsyncGenerator[tuple[int, _ItemT], None]:
    """What several streams give, as it comes, with the number of the stream. The first fault ends all."""
    queue: asyncio.Queue[tuple[int, _ItemT | Exception | None]] = asyncio.Queue()

    async def pump(number: int, stream: AsyncGenerator[_ItemT, None]) -> None:
        try:
            async with aclosing(stream) as items:
                async for item in items:
                    queue.put_nowait((number, item))
        except Exception as fault:  # noqa: BLE001  # it is raised where the stream is read
            queue.put_nowait((number, fault))
        else:
            queue.put_nowait((number, None))

    tasks = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]
    try:
        left = len(tasks)
        while left:
            number, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield number, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
