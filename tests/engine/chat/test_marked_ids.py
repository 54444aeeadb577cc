"""Ids under spans: no gap, no overlap, whatever is appended and wherever it is cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from kodkod_engine.chat.ledger_state import Origin, Span
from kodkod_engine.chat.marked_ids import MarkedIds

parts = st.lists(st.tuples(st.sampled_from(Origin), st.lists(st.integers(0, 99), max_size=4)), max_size=12)


def marked(*entries: tuple[Origin, list[int]]) -> MarkedIds:
    made = MarkedIds()
    for origin, ids in entries:
        made.append(origin, ids)
    return made


def origins(made: MarkedIds) -> list[Origin]:
    """Of each token."""
    return [span.origin for span in made.spans for _ in range(span.start, span.end)]


def check(made: MarkedIds) -> None:
    assert all(before.end == after.start for before, after in pairwise(made.spans))
    assert all(span.start < span.end for span in made.spans)
    assert (made.spans[0].start, made.spans[-1].end) == (0, len(made)) if made.spans else not len(made)


@given(parts)
def test_every_token_keeps_its_origin(entries):
    made = marked(*entries)
    check(made)
    assert list(made.ids) == [token_id for _, ids in entries for token_id in ids]
    assert origins(made) == [origin for origin, ids in entries for _ in ids]
    assert made.last_origin == next((origin for origin, ids in reversed(entries) if ids), None)


@given(parts, st.integers(0, 50))
def test_a_beginning_is_as_if_no_more_had_come(entries, at):
    made = marked(*entries)
    at = min(at, len(made))
    first = made.first(at)
    check(first)
    assert list(first.ids) == list(made.ids[:at])
    assert origins(first) == origins(made)[:at]
    across = made.span_across(at)
    assert (across is None) == (at in {0, *(span.end for span in made.spans)})
    first.append(Origin.USER, [1])
    assert len(made) == sum(len(ids) for _, ids in entries), "a copy"


def test_only_what_is_generated_is_joined():
    made = marked((Origin.GENERATED, [1]), (Origin.GENERATED, [2, 3]), (Origin.FORCED, [4]), (Origin.FORCED, [5]))
    assert list(made.spans) == [Span(Origin.GENERATED, 0, 3), Span(Origin.FORCED, 3, 5)]
    assert made.append(Origin.FORCED, [6]) == Span(Origin.FORCED, 5, 6), "the span of the new ones alone"
    two = marked((Origin.USER, [1]), (Origin.USER, [2]))
    assert len(two.spans) == 2, "two entries"


def test_nothing_appended_changes_nothing():
    made = marked((Origin.USER, [1, 2]))
    before = made.as_tuple()
    assert made.append(Origin.GENERATED, []) == Span(Origin.GENERATED, 2, 2)
    assert made.as_tuple() is before
    made.append(Origin.GENERATED, [3])
    assert made.as_tuple() == (1, 2, 3)


def test_the_head_ends_with_the_first_other_origin():
    made = marked((Origin.TOOLS, [1, 2]), (Origin.SYSTEM, [3]), (Origin.USER, [4]), (Origin.TOOLS, [5]))
    assert made.head_length(Origin.TOOLS) == 2
    assert made.head_length(Origin.TOOLS, Origin.SYSTEM) == 3
    assert made.head_length(Origin.USER) == 0
    assert made.head_length(*Origin) == 5
