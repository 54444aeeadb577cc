"""One answer from a server: what is asked, and how a constraint is kept that the server knows nothing of.

A constraint is a function of the tokens so far, and no server can be told a function. So the model's own free
continuation is taken as a guess, each token of it is shown to the constraint, and at the first that it forbids the
stream is closed and one token is asked for out of the ids that it allows; then free again. Greedy answers are those
of a model that is constrained at every step; drawn ones have the same distribution, since a draw that is kept when it
is allowed, and else drawn again among the allowed, is a draw among the allowed (with top-k, top-p or min-p a free draw
is filtered before the constraint, not after it). Where one id alone is allowed nobody is asked.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection

from kodkod_engine.api import FinishReason, GenerationRequest, TokenLogprob
from kodkod_engine.backends.vllm_wire import Asking, Reply, WireFault
from kodkod_engine.constraints.asking import ask_constraint
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.core.step import ChosenToken, Restriction

SEEN_TOP = 5
"""Most probable tokens that are looked at to tell how much of the model's mass a constraint leaves."""
_SEEDS = 2**63 - 1

AskServer = Callable[[Asking], AsyncGenerator[Reply]]


class ConstraintFault(Exception):
    """A caller's constraint failed; its own request ends, and no other."""


class Run:
    """One stream of the server, token by token."""

    def __init__(self, replies: AsyncGenerator[Reply]) -> None:
        self._replies = replies
        self._tokens: deque[TokenLogprob] = deque()
        self.finish_reason: str | None = None
        self.cached_tokens: int | None = None

    async def batch(self) -> tuple[TokenLogprob, ...]:
        """The next tokens, at least one; none at the end."""
        while not self._tokens and self.finish_reason is None:
            reply = await anext(self._replies, None)
            if reply is None:
                raise WireFault("it broke the answer off")
            self._take(reply)
        tokens = tuple(self._tokens)
        self._tokens.clear()
        return tokens

    async def one(self) -> TokenLogprob | None:
        """The next token; None at the end."""
        first, *rest = await self.batch() or (None,)
        self._tokens.extendleft(token for token in reversed(rest) if token is not None)
        return first

    async def close(self) -> None:
        """Leave: after the end the usage is read, before it the server is left to give up."""
        while self.finish_reason is not None and (reply := await anext(self._replies, None)) is not None:
            self._take(reply)
        await self._replies.aclose()

    async def abandon(self) -> None:
        """Leave at once."""
        await self._replies.aclose()

    def _take(self, reply: Reply) -> None:
        self._tokens.extend(reply.tokens)
        self.finish_reason = self.finish_reason or reply.finish_reason
        if reply.cached_tokens is not None:
            self.cached_tokens = reply.cached_tokens


class Dialogue:
    """Carries one request through; belongs to the engine thread."""

    def __init__(self, ask: AskServer, answer: Answer, sequence: Sequence, vocab_size: int) -> None:
        self._ask = ask
        self._answer = answer
        self._sequence = sequence
        self._vocab_size = vocab_size
        self._run: Run | None = None

    @property
    def _request(self) -> GenerationRequest:
        return self._answer.request

    async def hold(self) -> FinishReason:
        """Until the answer is complete.

        Raises:
            WireFault, ConstraintFault: it cannot be completed.
            httpx2.HTTPError: the connection failed.
        """
        try:
            reason = await (self._constrained() if self._request.constraint else self._free())
            await self._leave()
        finally:
            if self._run is not None:
                await self._run.abandon()
        return reason

    async def _free(self) -> FinishReason:
        self._run = run = self._open()
        while tokens := await run.batch():
            reason = self._say([self._plain(token) for token in tokens])
            if reason is not None:
                return reason
        return _server_reason(run.finish_reason)

    def _plain(self, token: TokenLogprob) -> ChosenToken:
        num_top = self._request.sampling.logprobs
        if num_top is None:
            return ChosenToken(token.token_id)
        return ChosenToken(token.token_id, TokenLogprob(token.token_id, token.logprob, token.top[:num_top]))

    async def _constrained(self) -> FinishReason:
        reason = None
        while reason is None:
            allowed = self._allowed()
            chosen = await self._choose(allowed)
            if chosen is None:
                return _server_reason(self._run.finish_reason if self._run else None)
            reason = self._say([chosen])
        return reason

    def _allowed(self) -> Collection[int] | None:
        constraint = self._request.constraint
        assert constraint is not None
        try:
            return ask_constraint(constraint, self._generated, self._vocab_size)
        except Exception as fault:
            raise ConstraintFault(f"{type(fault).__name__}: {fault}") from fault

    async def _choose(self, allowed: Collection[int] | None) -> ChosenToken | None:
        if allowed is None:
            guess = await self._guess()
            return None if guess is None else ChosenToken(guess.token_id)
        if len(allowed) == 1 and self._run is None:
            return _forced(allowed)
        guess = await self._guess()
        if guess is None:
            return None
        mass, wanted_id = _seen_mass(guess, allowed)
        token_id = guess.token_id if guess.token_id in allowed else await self._again(allowed)
        return ChosenToken(token_id, None, Restriction(len(allowed), mass, wanted_id))

    async def _guess(self) -> TokenLogprob | None:
        if self._run is None:
            self._run = self._open()
        return await self._run.one()

    async def _again(self, allowed: Collection[int]) -> int:
        """The guess was forbidden: one token out of what is allowed."""
        await self._leave()
        if len(allowed) == 1:
            return next(iter(allowed))
        self._run = self._open(allowed)
        token = await self._run.one()
        await self._leave()
        if token is None or token.token_id not in allowed:
            raise WireFault("it does not keep to allowed_token_ids")
        return token.token_id

    async def _leave(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            await run.close()
            if run.cached_tokens is not None and not self._sequence.reused_tokens:
                self._sequence.reused_tokens = min(run.cached_tokens, self._sequence.num_prompt_tokens)

    def _open(self, allowed: Collection[int] | None = None) -> Run:
        sampling, place = self._request.sampling, len(self._generated)
        is_watched = self._request.constraint is not None and allowed is None
        asking = Asking(
            prompt_ids=self._sequence.token_ids,
            sampling=sampling,
            max_tokens=1 if allowed is not None else self._room,
            stop_ids=self._answer.stop_ids,
            num_top=SEEN_TOP if is_watched else sampling.logprobs,
            allowed_ids=allowed,
            # A stream that is opened in the middle of an answer must not draw as its beginning did.
            seed=(sampling.seed + place * 1_000_003 + (allowed is not None)) % _SEEDS,
        )
        return Run(self._ask(asking))

    @property
    def _generated(self) -> list[int]:
        return self._sequence.token_ids[self._sequence.num_prompt_tokens :]

    @property
    def _room(self) -> int:
        return self._sequence.max_total_tokens - self._sequence.num_tokens

    def _say(self, tokens: list[ChosenToken]) -> FinishReason | None:
        num_taken, reason = self._answer.take(tokens, room=self._room)
        self._sequence.token_ids += [token.token_id for token in tokens[:num_taken]]
        return reason


def _forced(allowed: Collection[int]) -> ChosenToken:
    """The one id; what the model would have said is not known."""
    [token_id] = allowed
    return ChosenToken(token_id, None, Restriction(1, 1.0, token_id))


def _seen_mass(guess: TokenLogprob, allowed: Collection[int]) -> tuple[float, int]:
    """At most what the model gave to all that is allowed: what is seen to be forbidden taken off. And its favourite."""
    forbidden = sum(math.exp(value) for token_id, value in guess.top if token_id not in allowed)
    return max(0.0, 1.0 - forbidden), guess.top[0][0] if guess.top else guess.token_id


def _server_reason(named: str | None) -> FinishReason:
    """Why the server ended before we did."""
    reasons = {"length": FinishReason.LENGTH, "stop": FinishReason.STOP}
    if named not in reasons:
        raise WireFault(f"it gave the answer up ({named})")
    return reasons[named]
