"""The answer to one request while it grows: text, stop conditions, timings, and the chunks that leave."""

from __future__ import annotations

import time
from collections.abc import Sequence as Run
from dataclasses import dataclass

from kodkod_engine.api import Doubt, DraftUsage, FinishReason, GenerationRequest, TokenChunk, Usage
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
        self.stop_ids = request.sampling.stop_ids | (frozenset() if request.sampling.ignore_eos else {eos_id})
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

    def take(self, tokens: Run[ChosenToken], *, room: int, wakes: bool = True) -> tuple[int, FinishReason | None]:
        """Send tokens on their way, up to the one that completes the answer.

        The token that ends a turn is sent as an id and not as text.

        Args:
            tokens: at least one.
            room: tokens the answer may still have.
            wakes: the reader is told now; else by `wake`, or when the answer ends.

        Returns:
            How many were sent, and why the answer is complete with them, or None.
        """
        if self._first_token is None:
            self._first_token = time.monotonic()
        taken: list[ChosenToken] = []
        texts: list[str] = []
        doubts: list[Doubt] = []
        reason: FinishReason | None = None
        while reason is None and len(taken) < len(tokens):
            taken.append(tokens[len(taken)])
            text, reason = self._read(taken[-1].token_id)
            texts.append(text)
            doubts += self._restrictions.add(taken[-1], self._num_generated)
            self._num_generated += 1
            if len(taken) >= room or self._num_generated >= self.request.sampling.max_tokens:
                reason = reason or FinishReason.LENGTH
        logprobs = tuple(token.logprob for token in taken if token.logprob is not None)
        ids = tuple(token.token_id for token in taken)
        chunk = TokenChunk(token_ids=ids, text="".join(texts), logprobs=logprobs, doubts=tuple(doubts))
        self._stream.put(chunk, wakes=wakes)
        return len(taken), reason

    def wake(self) -> None:
        """Tell the reader of what was taken."""
        self._stream.wake()

    def _read(self, token_id: int) -> tuple[str, FinishReason | None]:
        """What may be shown after this token, and whether the answer stops here."""
        if token_id in self.stop_ids:
            return "", FinishReason.STOP
        text, met_stop_string = self._readable(token_id)
        return text, FinishReason.STOP if met_stop_string else None

    def _readable(self, token_id: int) -> tuple[str, bool]:
        """What may be shown after this token, and whether it completed a stop string."""
        return self._stops.push(self._text.push([token_id])) if self._text else ("", False)

    def end(
        self,
        reason: FinishReason,
        sequence: Sequence,
        error: str | None,
        *,
        drafts: tuple[DraftUsage, ...] = (),
        plain_decode_s: float = 0.0,
    ) -> None:
        """Send the last chunk: held-back text, the reason, the usage."""
        text = self._stops.push(self._text.flush())[0] + self._stops.flush() if self._text else ""
        usage = self._usage(sequence, drafts, plain_decode_s)
        self._stream.put(TokenChunk(text=text, finish_reason=reason, usage=usage, error=error))

    def _usage(self, sequence: Sequence, drafts: tuple[DraftUsage, ...], plain_decode_s: float) -> Usage:
        now = time.monotonic()
        started = self._started or now
        first_token = self._first_token or now
        return Usage(
            prompt_tokens=sequence.num_prompt_tokens,
            reused_tokens=sequence.reused_tokens,
            generated_tokens=self._num_generated,
            drafts=drafts,
            plain_decode_s=plain_decode_s,
            constrained_tokens=self._restrictions.constrained,
            forced_tokens=self._restrictions.forced,
            doubted_tokens=self._restrictions.doubted,
            lowest_allowed_mass=self._restrictions.lowest_mass,
            preemptions=sequence.preemptions,
            queue_s=started - self._submitted,
            prefill_s=first_token - started,
            decode_s=now - first_token,
        )
