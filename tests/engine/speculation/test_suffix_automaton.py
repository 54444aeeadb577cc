"""The suffix automaton against a search through the text."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.speculation.suffix_automaton import SuffixAutomaton

texts = st.lists(st.integers(0, 2), max_size=40)


def longest_match(text: list[int], behind: list[int]) -> int:
    """Length of the longest suffix of text + behind that occurs in the text before the text's end."""
    whole = text + behind
    for length in range(len(whole), 0, -1):
        suffix = whole[len(whole) - length :]
        # Behind the text nothing is known, so an occurrence must end before what is thought of, and before the end.
        last = len(text) - length - (0 if behind else 1)
        if any(text[start : start + length] == suffix for start in range(last + 1)):
            return length
    return 0


def followers(text: list[int], context: list[int]) -> Counter[int]:
    found: Counter[int] = Counter()
    for start in range(len(text) - len(context)):
        if text[start : start + len(context)] == context:
            found[text[start + len(context)]] += 1
    return found


@settings(max_examples=200, deadline=None)
@given(texts, st.lists(st.integers(0, 2), max_size=4), st.integers(1, 6))
def test_what_it_continues_is_the_longest_suffix_that_occurred_before(text, behind, max_tokens):
    automaton = SuffixAutomaton()
    for token in text:
        automaton.extend([token])
    found = automaton.continuation(max_tokens, behind)
    length = longest_match(text, behind)
    context = (text + behind)[len(text + behind) - length :] if length else []
    for token, share, match in zip(found.token_ids, found.shares, found.match_lengths, strict=True):
        counts = followers(text, context)
        assert match == len(context)
        assert counts[token] == max(counts.values())
        assert share == counts[token] / counts.total()
        context = [*context, token]
    if length and len(found.token_ids) < max_tokens:
        assert not followers(text, context)


@settings(max_examples=50, deadline=None)
@given(st.lists(texts, max_size=6))
def test_in_one_go_or_token_by_token_it_is_the_same(parts):
    slow, quick = SuffixAutomaton(), SuffixAutomaton()
    for part in parts:
        quick.extend(part)
        for token in part:
            slow.extend([token])
    assert slow.num_tokens == quick.num_tokens == sum(map(len, parts))
    assert slow.continuation(8) == quick.continuation(8)


def test_nothing_crosses_a_border():
    automaton = SuffixAutomaton()
    automaton.extend([1, 2, 3])
    automaton.separate()
    automaton.extend([4, 5, 1, 2])
    assert automaton.continuation(8).token_ids == (3,)
    automaton.separate()
    assert automaton.continuation(8).token_ids == ()
    automaton.extend([3])
    assert automaton.continuation(8).token_ids == ()


def test_of_what_followed_equally_often_the_latest_wins():
    automaton = SuffixAutomaton()
    automaton.extend([7, 1, 9, 7, 2, 9, 7])
    assert automaton.continuation(1).token_ids == (2,)
    automaton.extend([1, 5, 7])
    found = automaton.continuation(1)
    assert (found.token_ids, found.shares) == ((1,), (2 / 3,))


def test_it_grows_far_beyond_its_first_size():
    automaton = SuffixAutomaton()
    text = [n * n % 1_009 for n in range(30_000)]
    automaton.extend(text)
    automaton.extend([5, 5])
    assert automaton.continuation(4, text[500:520]).token_ids == tuple(text[520:524])
    assert automaton.num_tokens == 30_002
