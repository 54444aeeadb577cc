"""What the values of arguments may be, each kind alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kodkod_engine.constraints.acceptors import EndingWhere, OneOf, ValueAcceptor, ValueState
from kodkod_engine.constraints.free_text import FreeText
from kodkod_engine.constraints.spans import SpanOfLine


def all_of(acceptor: ValueAcceptor) -> set[tuple[int, ...]]:
    """Every value of a small set."""
    return all_from(acceptor.start(), ())


def all_from(state: ValueState, prefix: tuple[int, ...]) -> set[tuple[int, ...]]:
    found = {prefix} if state.may_end else set()
    return found.union(*(all_from(state.after(token_id), (*prefix, token_id)) for token_id in state.allowed))


def test_one_of_is_its_texts_and_no_others(tokenizer):
    texts = ["", "a", "ab", "pkg/mod.py", "pkg/model.py", "ü"]
    assert {tokenizer.decode(ids) for ids in all_of(OneOf(tokenizer, texts))} == set(texts)


def test_ending_where_is_what_passes_of_another(tokenizer):
    texts = ["a", "ab", "abc", "ü", "über"]
    even = EndingWhere(tokenizer, OneOf(tokenizer, texts), lambda text: len(text) % 2 == 0)
    assert {tokenizer.decode(ids) for ids in all_of(even)} == {"ab", "über"}


LINES = st.text(alphabet="ab =().,é\t1", min_size=1, max_size=14).filter(lambda line: bool(line.strip()))


@pytest.mark.parametrize("kind", ["byte", "merging"])
@settings(max_examples=60, deadline=None)
@given(line=LINES)
def test_spans_are_all_that_quote_one_place(kind, byte_tokenizer, merging_tokenizer, line):
    tokenizer = byte_tokenizer if kind == "byte" else merging_tokenizer
    ids = tuple(tokenizer.encode_text(line))
    runs = {ids[start:end] for start in range(len(ids)) for end in range(start + 1, len(ids) + 1)}
    wanted = {
        run
        for run in runs
        if (text := tokenizer.decode(run)).strip()
        and sum(line.startswith(text, at) for at in range(len(line))) == 1
        and tuple(tokenizer.encode_text(text)) == run
    }
    spans = SpanOfLine(tokenizer, line)
    assert all_of(spans) == wanted
    assert ids in wanted, "at least the whole line may be quoted"


@pytest.mark.parametrize("line", ["x = [" + "0, " * 700 + "]", "# " + "-" * 2_000, "x = '" + "ab" * 1_000 + "'"])
def test_a_long_line_of_data_can_be_quoted_and_takes_no_square_of_its_length(tokenizer, line, monkeypatch):
    ids, encode, lengths = tokenizer.encode_text(line), tokenizer.encode_text, []
    monkeypatch.setattr(tokenizer, "encode_text", lambda text: lengths.append(len(text)) or encode(text))
    state = SpanOfLine(tokenizer, line).start()
    for token_id in ids:
        assert token_id in state.allowed
        state = state.after(token_id)
    assert state.may_end
    assert sum(lengths) < 100 * len(line)


@pytest.mark.parametrize("kind", ["byte", "merging"])
@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), max_tokens=st.integers(1, 9))
def test_free_text_is_whole_characters_up_to_its_length(kind, byte_tokenizer, merging_tokenizer, seed, max_tokens):
    tokenizer = byte_tokenizer if kind == "byte" else merging_tokenizer
    text = FreeText(tokenizer, max_tokens)
    draws, prefix = random.Random(seed), ()
    while following := sorted(text.next_ids(prefix)):
        assert tokenizer.control_ids.isdisjoint(following)
        prefix = (*prefix, draws.choice(following))
    assert len(prefix) == max_tokens
    assert text.may_end(prefix)
    written = b"".join(map(tokenizer.bytes_of, prefix))
    assert all(
        character.isprintable() or ord(character) > 0x7F or character in "\n\t" for character in written.decode()
    )


@settings(max_examples=60, deadline=None)
@given(wanted=st.text(min_size=1, max_size=5).filter(lambda text: all(ord(char) > 0x9F for char in text)))
@example(wanted="\U00086e16")
def test_free_text_reaches_every_character(merging_tokenizer, wanted):
    """In room for its bytes one by one: no more is begun than can be ended so, though tokens may hold several."""
    ids = tuple(merging_tokenizer.encode_text(wanted))
    text = FreeText(merging_tokenizer, len(wanted.encode()))
    for place, token_id in enumerate(ids):
        assert token_id in text.next_ids(ids[:place])
    assert text.may_end(ids)


def test_free_text_asks_before_it_ends_and_leaves_out_what_is_forbidden(byte_tokenizer):
    (forbidden,) = byte_tokenizer.encode_text("x")
    text = FreeText(byte_tokenizer, 3, lambda text: text == "ab", [forbidden])
    ids = tuple(byte_tokenizer.encode_text("ab"))
    assert [text.may_end(ids[:length]) for length in range(3)] == [False, False, True]
    assert forbidden not in text.next_ids(())
    assert byte_tokenizer.encode_text("y")[0] in text.next_ids(())
