"""Drafts copied from what was said before: prompt and answer, open files, earlier answers."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence as Run

from kodkod_engine.speculation.drafter import NO_DRAFT, Draft, DraftTask
from kodkod_engine.speculation.suffix_automaton import SuffixAutomaton

MAX_KEPT_TEXTS = 4
"""Texts of ended streams that wait for the next turn of their conversation."""

MAX_ANSWERS = 16
MAX_ANSWER_TOKENS = 4_096
"""Earlier answers that are sources for all later streams, and the longest beginning of one that is."""


class _Text:
    """The sources and the conversation of one stream as one automaton, the conversation last."""

    def __init__(self) -> None:
        self.automaton = SuffixAutomaton()
        self.ids: list[int] = []
        """Of the conversation, as far as it is in the automaton."""
        self._sources: set[tuple[int, ...]] = set()

    def add_sources(self, sources: Run[tuple[int, ...]]) -> None:
        """Take in those that are new. The conversation then begins a new stretch."""
        new = [source for source in sources if source not in self._sources]
        for source in new:
            self.automaton.separate()
            self.automaton.extend(source)
        if new:
            self.automaton.separate()
        self._sources.update(new)

    def catch_up(self, token_ids: list[int]) -> None:
        """Take in the conversation's latest ids."""
        new = token_ids[len(self.ids) :]
        if new:
            self.automaton.extend(new)
            self.ids += new


class SuffixDrafter:
    """See `drafter.Drafter`. The longest suffix that occurred before says what comes next, its counts how surely."""

    name = "suffix"

    def __init__(self) -> None:
        self._live: dict[str, _Text] = {}
        self._kept: OrderedDict[str, _Text] = OrderedDict()
        self._prompt_tokens: dict[str, int] = {}
        self._answers: deque[tuple[int, ...]] = deque(maxlen=MAX_ANSWERS)

    def draft(self, tasks: Run[DraftTask]) -> list[Draft]:
        """See `Drafter`."""
        return [self._copy(task) for task in tasks]

    def _copy(self, task: DraftTask) -> Draft:
        text = self._live.get(task.sequence.id) or self._begin(task)
        text.catch_up(task.sequence.token_ids)
        found = text.automaton.continuation(task.max_tokens, task.prefix_ids)
        if not found.token_ids:
            return NO_DRAFT
        # A token is the surer the longer the stretch it continues, and the more often it was what followed.
        pairs = zip(found.shares, found.match_lengths, strict=True)
        return Draft(found.token_ids, tuple(share * length / (length + 1) for share, length in pairs))

    def _begin(self, task: DraftTask) -> _Text:
        sequence = task.sequence
        text = self._continued(sequence.token_ids) or _Text()
        text.add_sources([*self._answers, *task.request.draft_sources])
        self._live[sequence.id] = text
        self._prompt_tokens[sequence.id] = sequence.num_prompt_tokens
        return text

    def _continued(self, token_ids: list[int]) -> _Text | None:
        """The text of an ended stream that these ids go on from."""
        for request_id, text in self._kept.items():
            if text.ids == token_ids[: len(text.ids)]:
                return self._kept.pop(request_id)
        return None

    def end(self, request_id: str) -> None:
        """See `Drafter`."""
        text = self._live.pop(request_id, None)
        if text is None:
            return
        answer = tuple(text.ids[self._prompt_tokens.pop(request_id) :][:MAX_ANSWER_TOKENS])
        if answer and answer not in self._answers:
            self._answers.append(answer)
        self._kept[request_id] = text
        while len(self._kept) > MAX_KEPT_TEXTS:
            self._kept.popitem(last=False)
