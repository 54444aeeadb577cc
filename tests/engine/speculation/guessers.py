"""Drafters and costs for tests: they draft whatever a test wants to see verified."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from kodkod_engine.api import Speculation
from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.drafter import Draft, Drafter, DraftTask
from kodkod_engine.speculation.speculator import Speculator


class FlatCosts(CostTable):
    """Every step costs the same, so that all that is drafted is verified."""

    is_measured = True

    def __init__(self) -> None:
        super().__init__()
        self.is_measured = True
        super().learn(1, 1, 1.0)

    def learn(self, num_tokens: int, context: int, seconds: float, *, is_plain: bool = True) -> None:
        pass

    def curve(self, num_tokens, num_more, context):
        return 0 * super().curve(num_tokens, num_more, context) + 1.0


class FakeDrafter:
    """Says what it is told to say; see `drafter.Drafter`."""

    def __init__(self, say: Callable[[DraftTask], Sequence[int]], name: str = "suffix") -> None:
        self.name = name
        self._say = say
        self.asked: list[DraftTask] = []
        self.ended: list[str] = []

    def draft(self, tasks: Sequence[DraftTask]) -> list[Draft]:
        self.asked += tasks
        drafts = [tuple(self._say(task))[: task.max_tokens] for task in tasks]
        return [Draft(ids, (0.99,) * len(ids)) for ids in drafts]

    def end(self, request_id: str) -> None:
        self.ended.append(request_id)


class KnowingDrafter(FakeDrafter):
    """Knows the answers beforehand, and errs now and then: drafts that are right for a while, at any length."""

    def __init__(self, vocab_size: int, error_rate: float = 0.15, seed: int = 0) -> None:
        super().__init__(self._recall)
        self.answers: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._draws = random.Random(seed)
        self._vocab_size = vocab_size
        self._error_rate = error_rate

    def _recall(self, task: DraftTask) -> list[int]:
        answer = self.answers.get(tuple(task.sequence.token_ids[: task.sequence.num_prompt_tokens]), ())
        begun = task.sequence.num_generated + len(task.prefix_ids)
        length = self._draws.randint(0, task.max_tokens)
        ids = list(answer[begun : begun + length])
        return [self._draws.randrange(self._vocab_size) if self._draws.random() < self._error_rate else i for i in ids]


def always(drafters: Sequence[Drafter], vocab_size: int, default: Speculation = Speculation.AUTO) -> Speculator:
    """A speculator that verifies whatever is drafted."""
    return Speculator(drafters, FlatCosts(), default=default, vocab_size=vocab_size, always=True)
