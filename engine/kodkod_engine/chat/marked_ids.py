"""Token ids in order, each with where it came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kodkod_engine.chat.ledger_state import Origin, Span


class MarkedIds:
    """Ids that only grow, under spans without gaps. What is generated in a row is one span."""

    def __init__(self, ids: Iterable[int] = (), spans: Iterable[Span] = ()) -> None:
        """The spans cover the ids."""
        self._ids = list(ids)
        self._spans = list(spans)
        self._tuple: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> Sequence[int]:
        """All of them, to be read; they grow with what is appended."""
        return self._ids

    @property
    def spans(self) -> Sequence[Span]:
        """All of them, as above; the last one may be replaced by a longer one."""
        return self._spans

    @property
    def last_origin(self) -> Origin | None:
        """Of the last token."""
        return self._spans[-1].origin if self._spans else None

    def as_tuple(self) -> tuple[int, ...]:
        """The ids as they are now; made once for each state."""
        if self._tuple is None:
            self._tuple = tuple(self._ids)
        return self._tuple

    def append(self, origin: Origin, ids: Sequence[int]) -> Span:
        """More ids; the span of these alone, which is empty when there are none."""
        start = len(self._ids)
        span = Span(origin, start, start + len(ids))
        if ids:
            self._ids += ids
            self._tuple = None
            if self.last_origin is origin and origin.is_generated:
                self._spans[-1] = Span(origin, self._spans[-1].start, span.end)
            else:
                self._spans.append(span)
        return span

    def head_length(self, *origins: Origin) -> int:
        """Number of tokens before the first span of any other origin."""
        length = 0
        for span in self._spans:
            if span.origin not in origins:
                break
            length = span.end
        return length

    def span_across(self, at: int) -> Span | None:
        """The span that has tokens on both sides of this place."""
        return next((span for span in self._spans if span.start < at < span.end), None)

    def first(self, at: int) -> MarkedIds:
        """A copy of the first `at` tokens."""
        kept = (Span(span.origin, span.start, min(span.end, at)) for span in self._spans if span.start < at)
        return MarkedIds(self._ids[:at], kept)
