"""nano's vocabulary: what edits and constraints rely on."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_app.nano.spans import pre_tokens
from kodkod_app.nano.tokenizer_training import VOCABULARY_SIZE, train
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.tokenizer import Tokenizer

ODD_LINES = st.text(st.sampled_from(list("abz_019 .,:=|<>!+-*/()[]'\"#\\é\t")), max_size=40)


def spans_keep_their_ids(tokenizer: Tokenizer, line: str, first: int, last: int, number: int) -> None:
    """Pre-tokens `first` to `last` of a line have the same ids alone, in the line and in a numbered view of it."""
    pieces = pre_tokens(line)
    head, span, tail = ("".join(part) for part in (pieces[:first], pieces[first:last], pieces[last:]))
    alone = [tokenizer.encode_text(text) for text in (head, span, tail)]
    whole = tokenizer.encode_text(line)
    assert whole == list(chain(*alone))
    view = tokenizer.encode_text(f"pkg/mod.py, lines 1-9 of 9\n{number}|{line}\n{number + 1}|x")
    prefix = tokenizer.encode_text(f"pkg/mod.py, lines 1-9 of 9\n{number}|")
    assert view[len(prefix) : len(prefix) + len(whole)] == whole


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_spans_of_code_keep_their_ids(tokenizer: Tokenizer, code_lines: list[str], data: st.DataObject) -> None:
    line = data.draw(st.sampled_from(code_lines))
    count = len(pre_tokens(line))
    first = data.draw(st.integers(0, count))
    last = data.draw(st.integers(first, count))
    spans_keep_their_ids(tokenizer, line, first, last, data.draw(st.integers(1, 20_000)))


@settings(max_examples=150, deadline=None)
@given(line=ODD_LINES, number=st.integers(1, 20_000))
def test_odd_lines_keep_their_ids_in_a_view(tokenizer: Tokenizer, line: str, number: int) -> None:
    spans_keep_their_ids(tokenizer, line, 0, len(pre_tokens(line)), number)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode_text(text)) == text


def test_short_numbers_are_single_tokens(tokenizer: Tokenizer) -> None:
    numbers = [str(n) for n in range(1000)] + [f"{n:02d}" for n in range(100)] + [f"{n:03d}" for n in range(100)]
    assert {len(tokenizer.encode_text(number)) for number in numbers} == {1}


@given(number=st.integers(0, 10**12))
@settings(max_examples=50, deadline=None)
def test_numbers_go_by_threes_from_the_right(tokenizer: Tokenizer, number: int) -> None:
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode_text(str(number))]
    assert pieces == f"{number:,}".split(",")


def test_digits_stay_apart_from_letters_in_names(tokenizer: Tokenizer) -> None:
    digits = set("0123456789")
    tokens = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    assert not [token for token in tokens if set(token) & digits and not set(token) <= digits]


def test_every_tag_is_one_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == VOCABULARY_SIZE
    assert not tokenizer.special.text_tags
    assert [tokenizer.special.id_of(tag) for tag in (Tag.BOS, Tag.EOS, Tag.PAD)] == [1, 2, 3]


def test_words_of_the_dialogue_are_whole(tokenizer: Tokenizer) -> None:
    for word in ("edit", "view", "finish", "restore", "locate", "summary", "FAILED", " passed", " exit"):
        assert len(tokenizer.encode_text(word)) == 1, word


def test_too_little_text_is_refused() -> None:
    with pytest.raises(ValueError, match="learn from more"):
        train(["def f():\n    return 1\n"], times=1)
