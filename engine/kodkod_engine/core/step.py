"""What the loop asks of a runner: compute these runs of tokens, and choose a next token for some.

Plain integers cross this line, in both directions; a runner may be a model or a script.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

from kodkod_engine.api import SamplingParams, TokenLogprob
from kodkod_engine.core.plan import BlockCopy

NOBODY = ""
"""Id of a run that is computed for its time alone."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How to choose the token that follows a run."""

    sampling: SamplingParams
    position: int
    """Of the token to be chosen; with the seed it decides the draw."""
    allowed_ids: Collection[int] | None
    """None allows every id; see `api.Constraint`."""


@dataclass(frozen=True, slots=True)
class TokenRun:
    """Neighbouring tokens of one sequence, to be computed in one step."""

    request_id: str
    token_ids: Sequence[int]
    """The tokens at positions start, start + 1, ..."""
    context_ids: Sequence[int]
    """The tokens before them that an n-gram can reach: at most `StepRunner.context_tokens`, oldest first."""
    start: int
    block_ids: Sequence[int]
    """The sequence's blocks from its first token on."""
    choices: Sequence[Choice] = ()
    """How to choose what follows each of the last `len(choices)` tokens, of which all but the first are drafts: the
    choice after a draft is as if it had been accepted. Empty while more of the prompt is to come."""
    sequence_ids: Sequence[int] = ()
    """All of the sequence's tokens, of which `start` come before this run; none where nobody says."""

    @property
    def end(self) -> int:
        """Length of the sequence after this run, drafts included."""
        return self.start + len(self.token_ids)

    @property
    def draft_ids(self) -> Sequence[int]:
        """The drafts at the end of `token_ids`."""
        return self.token_ids[len(self.token_ids) + 1 - len(self.choices) :] if self.choices else ()


def next_run(run: TokenRun, token_id: int, context_tokens: int) -> TokenRun:
    """What a visit computes after a run of one choice, once this token was chosen."""
    (choice,) = run.choices
    before = [*run.context_ids, *run.token_ids]
    return TokenRun(
        request_id=run.request_id,
        token_ids=[token_id],
        context_ids=before[max(0, len(before) - context_tokens) :],
        start=run.end,
        block_ids=run.block_ids,
        choices=[replace(choice, position=choice.position + 1)],
    )


@dataclass(frozen=True, slots=True)
class Restriction:
    """What a constraint did to a choice."""

    num_allowed: int
    allowed_mass: float
    """What the model gave to all that was allowed, at temperature 1."""
    wanted_id: int
    """What it held most probable of all."""


@dataclass(frozen=True, slots=True)
class ChosenToken:
    """What follows a run."""

    token_id: int
    logprob: TokenLogprob | None = None
    """When the request asked for it."""
    restriction: Restriction | None = None
    """When there was a constraint that left something out."""


EXPECTED_TOKENS = 4096
"""How far ahead of a prompt's steps a runner is told of its tokens: 200 MB of pages for LongCat-Flash-Lite's tables."""


class StepRunner(Protocol):
    """Computes steps, one at a time, on the engine thread."""

    @property
    def context_tokens(self) -> int:
        """How many tokens before a run it needs to see."""
        ...

    def expect(self, context_ids: Sequence[int], token_ids: Sequence[int]) -> None:
        """Told of tokens that later steps will run, so that it may fetch what they need meanwhile. Returns at once.

        Args:
            context_ids: the tokens before them, as in `TokenRun`.
            token_ids: at most `EXPECTED_TOKENS` more than a step has.
        """
        ...

    def run(
        self, copies: Sequence[BlockCopy], runs: Sequence[TokenRun], num_steps: int = 1
    ) -> list[tuple[ChosenToken, ...]]:
        """Copy blocks in order, compute the runs, choose.

        Args:
            copies: to be made before anything is written.
            runs: of the step, or of the first of several.
            num_steps: more than 1 for a visit. Each run is then one token with one choice, which nothing restricts and
                of which no log-probabilities are asked; each later step computes what was chosen in the one before.
                The blocks have room for all.

        Returns:
            One entry per run: the tokens that follow what was accepted before. They are the drafts up to the first that
            is not what is chosen in its place, and then what is chosen there. Empty where nothing was asked for. Of a
            visit: `num_steps` tokens, none of the last one's KV.
        """
        ...


@runtime_checkable
class OverlappingRunner(StepRunner, Protocol):
    """One that tells when the host's time is free, for a device computes."""

    @property
    def overlaps(self) -> bool:
        """Whether there is such a device."""
        ...

    meanwhile: Callable[[], object]
    """To be called in every step: once the device has all it needs, or before what the host itself computes; and where
    kernels are compiled after each. What it raises breaks the step off."""
