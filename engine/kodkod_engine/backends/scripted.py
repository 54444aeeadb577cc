"""An engine that replays recorded tokens: for tests, demos and replay of trajectories. Loads no torch.

Scheduling, prefix reuse, streaming and stop conditions are the real ones; the model alone is replaced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from kodkod_engine.api import TokenLogprob
from kodkod_engine.backends.looped import LoopedEngine
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.config import EngineConfig
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.plan import BlockCopy
from kodkod_engine.core.sequence import Sequence as EngineSequence
from kodkod_engine.core.step import NOBODY, Choice, ChosenToken, Restriction, TokenRun
from kodkod_engine.errors import RequestError
from kodkod_engine.speculation.speculator import Speculator

Script: TypeAlias = Callable[[tuple[int, ...]], Sequence[int]]
"""Prompt ids to the ids of the answer. LookupError means that the script has no answer."""


def replay(answers: Iterable[Sequence[int]]) -> Script:
    """A script that gives recorded answers one after another, whatever the prompt."""
    remaining = iter([tuple(answer) for answer in answers])

    def next_answer(_prompt_ids: tuple[int, ...]) -> Sequence[int]:
        answer = next(remaining, None)
        if answer is None:
            raise LookupError("the recording is over")
        return answer

    return next_answer


class ScriptedRunner:
    """See `core.step.StepRunner`: each sequence's next token is the next of its recorded answer, then the end.

    Where a constraint forbids that one it is the lowest id allowed: the choice of a model that is sure of its
    recording and knows nothing else.
    """

    context_tokens = 0

    def __init__(self, eos_id: int, seconds_per_step: float) -> None:
        self._eos_id = eos_id
        self._seconds_per_step = seconds_per_step
        self._answers: dict[str, tuple[int, Sequence[int]]] = {NOBODY: (0, ())}

    def learn(self, request_id: str, prompt_tokens: int, answer: Sequence[int]) -> None:
        """What to say to a request."""
        self._answers[request_id] = (prompt_tokens, answer)

    def expect(self, context_ids: Sequence[int], token_ids: Sequence[int]) -> None:
        """See `StepRunner`; there is nothing to fetch."""

    def run(
        self, copies: Sequence[BlockCopy], runs: Sequence[TokenRun], num_steps: int = 1
    ) -> list[tuple[ChosenToken, ...]]:
        """See `StepRunner`."""
        del copies  # there is no KV to copy
        if self._seconds_per_step:
            time.sleep(self._seconds_per_step * num_steps)
        return [tuple(self._follow(run) if num_steps == 1 else self._recite(run, num_steps)) for run in runs]

    def _recite(self, run: TokenRun, num_steps: int) -> Iterator[ChosenToken]:
        (choice,) = run.choices
        for place in range(num_steps):
            yield self._next(run.request_id, replace(choice, position=choice.position + place))

    def _follow(self, run: TokenRun) -> Iterator[ChosenToken]:
        drafts = iter(run.draft_ids)
        for choice in run.choices:
            token = self._next(run.request_id, choice)
            yield token
            if token.token_id != next(drafts, None):
                return

    def _next(self, request_id: str, choice: Choice) -> ChosenToken:
        prompt_tokens, answer = self._answers[request_id]
        place = choice.position - prompt_tokens
        wanted = token_id = answer[place] if place < len(answer) else self._eos_id
        allowed, restriction = choice.allowed_ids, None
        if allowed is not None:
            token_id = wanted if wanted in allowed else min(allowed)
            restriction = Restriction(len(allowed), float(wanted in allowed), wanted)
        num_top = choice.sampling.logprobs
        if num_top is None:
            return ChosenToken(token_id, None, restriction)
        return ChosenToken(token_id, TokenLogprob(token_id, 0.0, ((token_id, 0.0),)[:num_top]), restriction)


class ScriptedEngine(LoopedEngine):
    """See `api.Engine`."""

    def __init__(
        self,
        script: Script,
        *,
        vocab_size: int,
        eos_id: int = 2,
        max_context_tokens: int = 32_768,
        tokenizer: Tokenizer | None = None,
        seconds_per_step: float = 0.0,
        config: EngineConfig | None = None,
        speculator: Speculator | None = None,
    ) -> None:
        """`seconds_per_step` paces the answer, as a model would."""
        self._script = script
        self._runner = ScriptedRunner(eos_id, seconds_per_step)
        super().__init__(
            self._runner,
            vocab_size=vocab_size,
            max_context_tokens=max_context_tokens,
            eos_id=eos_id,
            tokenizer=tokenizer,
            config=config or EngineConfig(),
            speculator=speculator,
        )

    def _submit(self, sequence: EngineSequence, answer: Answer) -> None:
        try:
            tokens = self._script(answer.request.token_ids)
        except LookupError as fault:
            raise RequestError(f"the script has no answer to this request: {fault}; record it again") from fault
        self._runner.learn(sequence.id, sequence.num_prompt_tokens, tokens)
        super()._submit(sequence, answer)
