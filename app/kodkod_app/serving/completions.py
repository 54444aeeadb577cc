"""`/v1/completions`: a text or token ids in, what follows them out, whole or as it comes."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from kodkod_app.serving.replies import CompletionReply, TextChoice, TextLogprobs
from kodkod_app.serving.requests import CompletionRequest
from kodkod_app.serving.service import Service, new_id, sampling_of, seed_of
from kodkod_app.serving.speaking import Ended, Piece, begin_all, merged, spoken_text
from kodkod_app.serving.telling import finite, token_text, usage_reply
from kodkod_engine.api import GenerationRequest, TokenLogprob, TokenStream

_MAX_TOKENS = 16
"""Where the request does not say, as in OpenAI's API."""


@dataclass(slots=True)
class Completion:
    """One request that was begun. Its streams run until they are read to their end or it is closed."""

    service: Service
    request: CompletionRequest
    prompts: list[tuple[int, ...]]
    """Of each choice, whose index is its number here."""
    streams: list[TokenStream]
    id: str = field(default_factory=lambda: new_id("cmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    async def begin(cls, service: Service, request: CompletionRequest) -> Completion:
        """Queue a request.

        Raises:
            ApiFault: it cannot be served.
        """
        encode = service.tokenizer.encode_text
        seed, each = seed_of(request), range(request.n or 1)
        prompts = [tuple(encode(text)) if isinstance(text, str) else text for text in request.prompts]
        requests = [
            GenerationRequest(
                prompt,
                sampling_of(
                    request,
                    index=index,
                    seed=seed,
                    max_tokens=request.max_tokens or _MAX_TOKENS,
                    stops=request.stops,
                    logprobs=request.logprobs,
                ),
            )
            for prompt in prompts
            for index in each
        ]
        streams = begin_all(service.engine, requests, "prompt")
        return cls(service, request, [one.token_ids for one in requests], streams)

    def close(self) -> None:
        """Stop what is still generated."""
        for stream in self.streams:
            stream.cancel()

    async def whole(self) -> CompletionReply:
        """The whole answer.

        Raises:
            ApiFault: the engine failed.
        """
        found: list[list[Piece]] = [[] for _ in self.streams]
        async with aclosing(merged([spoken_text(stream) for stream in self.streams])) as pieces:
            async for index, piece in pieces:
                found[index].append(piece)
        ends = [pieces[-1].ended for pieces in found]
        return self._reply([self._choice(index, pieces) for index, pieces in enumerate(found)], self._costs(ends))

    def _choice(self, index: int, pieces: Sequence[Piece]) -> TextChoice:
        ended = pieces[-1].ended
        assert ended is not None
        text = "".join(piece.text for piece in pieces)
        ids = [token_id for piece in pieces for token_id in piece.token_ids]
        extras = self._extras(ids, [entry for piece in pieces for entry in piece.logprobs], 0)
        if self.request.return_token_ids:
            extras["prompt_token_ids"] = list(self.prompts[index])
        return TextChoice(index=index, text=text, finish_reason=ended.reason, **extras)

    async def chunks(self) -> AsyncGenerator[CompletionReply, None]:
        """The answer as it comes.

        Raises:
            ApiFault: the engine failed.
        """
        ends: list[Ended | None] = [None] * len(self.streams)
        told_chars = [0] * len(self.streams)
        async with aclosing(merged([spoken_text(stream) for stream in self.streams])) as pieces:
            async for index, piece in pieces:
                ends[index] = piece.ended or ends[index]
                extras = self._extras(piece.token_ids, piece.logprobs, told_chars[index]) if piece.token_ids else {}
                told_chars[index] += len(piece.text)
                reason = piece.ended.reason if piece.ended else None
                if piece.text or extras or reason:
                    yield self._reply([TextChoice(index=index, text=piece.text, finish_reason=reason, **extras)])
        costs = self._costs(ends)
        if self.request.includes_usage:
            yield self._reply([], costs)

    def _costs(self, ends: Sequence[Ended | None]) -> dict[str, Any]:
        known = [end for end in ends if end is not None]
        self.service.told_cost("completion", [end.usage for end in known], sum(end.completion_tokens for end in known))
        return {"usage": usage_reply(known, prompts=len(self.request.prompts))}

    def _extras(self, token_ids: Sequence[int], entries: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
        """Fields that are there where they were asked for. `offset`: characters told before."""
        found: dict[str, Any] = {}
        if self.request.logprobs is not None:
            found["logprobs"] = self._logprobs(entries, offset)
        if self.request.return_token_ids:
            found["token_ids"] = list(token_ids)
        return found

    def _logprobs(self, entries: Sequence[TokenLogprob], offset: int) -> TextLogprobs:
        tokenizer = self.service.tokenizer
        tokens = [token_text(tokenizer, entry.token_id)[0] for entry in entries]
        offsets = [offset + sum(map(len, tokens[:place])) for place in range(len(tokens))]
        return TextLogprobs(
            tokens=tokens,
            token_logprobs=[finite(entry.logprob) for entry in entries],
            top_logprobs=[
                {token_text(tokenizer, token_id)[0]: finite(logprob) for token_id, logprob in reversed(entry.top)}
                for entry in entries
            ],
            text_offset=offsets,
        )

    def _reply(self, choices: list[TextChoice], costs: dict[str, Any] | None = None) -> CompletionReply:
        return CompletionReply(
            id=self.id,
            object="text_completion",
            created=self.created,
            model=self.service.name,
            system_fingerprint=self.service.fingerprint,
            choices=choices,
            **(costs or {}),
        )
