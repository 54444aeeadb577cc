"""The answer to one request while it grows: text, stop conditions, timings, and the chunks that leave."""

from __future__ import annotations

import time
from dataclasses import dataclass

from kodkod_engine.api import Doubt, FinishReason, GenerationRequest, TokenChunk, Usage
from kodkod_engine.chat.stop_strings import StopStrings
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.core.step import ChosenToken
from kodkod_engine.core.stream import ThreadedStream


@dataclass(slots=True)
class Restrictions:
    """What a request's constraint did to its tokens, counted."""

    doubt_below: float
    constrained: int = 0
    forced: int = 0
    doubted: int = 0
    lowest_mass: float = 1.0

    def add(self, token: ChosenToken, index: int) -> tuple[Doubt, ...]:
        """Take in the token of that index; returns the doubt about it, if there is one."""
        found = token.restriction
        if found is None:
            return ()
        self.constrained += 1
        self.forced += found.num_allowed == 1
        self.lowest_mass = min(self.lowest_mass, found.allowed_mass)
        if found.allowed_mass >= self.doubt_below:
            return ()
        self.doubted += 1
        return (Doubt(index, token.token_id, found.wanted_id, found.allowed_mass),)


class Answer:
    """Belongs to the engine thread once submitted; the stream is its only way out."""

    def __init__(
        self, request: GenerationRequest, stream: ThreadedStream, eos_id: int, tokenizer: Tokenizer | None
    ) -> None:
        self.request = request
        self._stream = stream
        self._stop_ids = request.sampling.stop_ids | (frozenset() if request.sampling.ignore_eos else {eos_id})
        self._text = tokenizer.stream(skip_special=False) if tokenizer else None
        self._stops = StopStrings(request.sampling.stop_strings)
        self._num_generated = 0
        self._restrictions = Restrictions(request.sampling.doubt_below)
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._first_token: float | None = None
        self._counted = False

    def began(self, now: float) -> None:
        """The request is in a step that starts now."""
        if self._started is None:
            self._started = now

    def is_first_step(self) -> bool:
        """True once."""
        is_first, self._counted = not self._counted, True
        return is_first

    def take(self, token: ChosenToken, *, is_full: bool) -> FinishReason | None:
        """Send a token on its way; returns why the answer is complete with it, or None.

        The token that ends a turn is sent as an id and not as text.
        """
        doubts = self._restrictions.add(token, self._num_generated)
        self._num_generated += 1
        if self._first_token is None:
            self._first_token = time.monotonic()
        is_stop_id = token.token_id in self._stop_ids
        text, met_stop_string = ("", False) if is_stop_id else self._readable(token.token_id)
        logprobs = (token.logprob,) if token.logprob is not None else ()
        self._stream.put(TokenChunk(token_ids=(token.token_id,), text=text, logprobs=logprobs, doubts=doubts))
        if is_stop_id or met_stop_string:
            return FinishReason.STOP
        if is_full or self._num_generated >= self.request.sampling.max_tokens:
            return FinishReason.LENGTH
        return None

    def _readable(self, token_id: int) -> tuple[str, bool]:
        """What may be shown after this token, and whether it completed a stop string."""
        return self._stops.push(self._text.push([token_id])) if self._text else ("", False)

    def end(self, reason: FinishReason, sequence: Sequence, error: str | None) -> None:
        """Send the last chunk: held-back text, the reason, the usage."""
        text = self._stops.push(self._text.flush())[0] + self._stops.flush() if self._text else ""
        usage = self._usage(sequence)
        self._stream.put(TokenChunk(text=text, finish_reason=reason, usage=usage, error=error))

    def _usage(self, sequence: Sequence) -> Usage:
        now = time.monotonic()
        started = self._started or now
        first_token = self._first_token or now
        return Usage(
            prompt_tokens=sequence.num_prompt_tokens,
            reused_tokens=sequence.reused_tokens,
            generated_tokens=self._num_generated,
            constrained_tokens=self._restrictions.constrained,
            forced_tokens=self._restrictions.forced,
            doubted_tokens=self._restrictions.doubted,
            lowest_allowed_mass=self._restrictions.lowest_mass,
            preemptions=sequence.preemptions,
            queue_s=started - self._submitted,
            prefill_s=first_token - started,
            decode_s=now - first_token,
        )
