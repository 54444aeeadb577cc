"""The pure functions: properties over any text."""

from __future__ import annotations

import io
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kodkod_tools.text.encoding import NotText, decode, detect, encode, line_ending
from kodkod_tools.text.indent import relate
from kodkod_tools.text.lines import read_window, split, with_ends
from kodkod_tools.text.nearest import nearest
from kodkod_tools.text.replace import Adjustment, Ambiguous, Applied, Missed, replace, telling_lines, tells_one_place
from kodkod_tools.text.truncate import cut_line, cut_middle, plain

few = settings(max_examples=150, deadline=None)
words = st.text(alphabet='ab \t\n(="“é…', max_size=40)
windows_words = st.lists(st.sampled_from(["a", "b ", "\tc", "", "  d", "“"]), max_size=8).flatmap(
    lambda lines: st.sampled_from(["\n", "\r\n"]).map(lambda end: end.join(lines))
)


@few
@given(words, words, words.filter(bool), words)
def test_an_exact_replacement_equals_that_of_str(before: str, after: str, old: str, new: str) -> None:
    text = before + old + after
    everywhere = replace(text, old, new, replace_all=True)
    assert isinstance(everywhere, Applied)
    assert everywhere.text == text.replace(old, new)
    assert everywhere.adjustments == ()
    once = replace(text, old, new)
    if isinstance(once, Applied):
        assert once.text == text.replace(old, new)
        assert text.count(old) == 1
    else:
        assert isinstance(once, Ambiguous)
        assert len(once.lines) > 1


crowded = st.text(alphabet="ab\n", max_size=30)


@few
@given(crowded, st.text(alphabet="ab\n", min_size=1, max_size=4), st.integers(1, 12))
def test_the_lines_that_tell_a_place_are_those_with_which_it_is_replaced(text: str, old: str, most: int) -> None:
    lines, starts = telling_lines(text, old, most), [at for at in range(len(text)) if text.startswith(old, at)]
    if len(starts) < 2:
        assert lines is None
        return
    assert lines is not None
    with_line = [replace(text, old, "x", line=line) for line in range(1, text.count("\n") + 3)]
    taken = [line for line, outcome in enumerate(with_line, 1) if isinstance(outcome, Applied)]
    if len(starts) <= most:
        assert lines == taken
    else:
        assert lines == [line for line in taken if line < text.count("\n", 0, starts[most]) + 1]


@few
@given(crowded, st.text(alphabet="ab\n", min_size=1, max_size=4), st.none() | st.integers(1, 12))
def test_what_tells_one_place_is_replaced_there(text: str, old: str, line: int | None) -> None:
    is_replaced = old in text and isinstance(replace(text, old, "x", line=line), Applied)
    assert tells_one_place(text, old, line) == is_replaced


@few
@given(words, words, words.filter(bool), words.filter(bool))
def test_replacing_and_replacing_back_restores_the_text(before: str, after: str, old: str, new: str) -> None:
    text = before + old + after
    done = replace(text, old, new)
    assume(isinstance(done, Applied))
    assert isinstance(done, Applied)
    back = replace(done.text, new, old)
    assume(isinstance(back, Applied))
    assert isinstance(back, Applied)
    assert back.text == text


@few
@given(windows_words, windows_words.filter(bool), windows_words)
def test_tolerance_is_never_silent(text: str, old: str, new: str) -> None:
    outcome = replace(text, old, new)
    if isinstance(outcome, Applied):
        silent = not outcome.adjustments
        assert (old in text) == (set(outcome.adjustments) <= {Adjustment.LINE_ENDINGS} and old in text)
        if silent:
            assert outcome.text == text.replace(old, new, 1)
    elif isinstance(outcome, Missed):
        assert old not in text


@few
@given(st.lists(st.sampled_from(["a", "b", "  c", "\td", "e f"]), min_size=1, max_size=6, unique=True), st.data())
def test_lines_a_tolerant_request_does_not_change_keep_their_bytes(lines: list[str], data: st.DataObject) -> None:
    tails = [data.draw(st.sampled_from(["", " ", "\t "])) for _ in lines]
    text = "".join(f"{line}{tail}\r\n" for line, tail in zip(lines, tails, strict=True))
    changed = data.draw(st.integers(0, len(lines) - 1))
    new = [f"{line}!" if number == changed else line for number, line in enumerate(lines)]
    outcome = replace(text, "".join(f"{line}\n" for line in lines), "".join(f"{line}\n" for line in new))
    assert isinstance(outcome, Applied)
    assert Adjustment.LINE_ENDINGS in outcome.adjustments
    there, now = text.split("\r\n"), outcome.text.split("\r\n")
    assert [line for number, line in enumerate(now) if number != changed] == [
        line for number, line in enumerate(there) if number != changed
    ]
    assert now[changed] == f"{lines[changed]}!"


@pytest.mark.parametrize(
    ("text", "old", "new", "after"),
    [
        ("a\r\nb\r\n", "\nb", "\n\nb", "a\r\n\r\nb\r\n"),
        ("a\r\nb\r\n", "\nb", " b", "a b\r\n"),
        ("a\r\n\r\nb\r\n", "\n\nb", "\nb", "a\r\nb\r\n"),
        ("a\r\nb\nc\n", "\nb\nc", "\nx\ny", "a\r\nx\ny\n"),
        ("a\r\r\nb\r\r\nc", "a\nb\n", "a\nx\n", "a\r\r\nx\r\r\nc"),
        ("a\r\n\tb\r%\r\nc", "a\n\tb\r%", "z\n\tb\r%", "z\r\n\tb\r%\r\nc"),
    ],
)
def test_line_ends_stay_whole(text: str, old: str, new: str, after: str) -> None:
    outcome = replace(text, old, new)
    assert isinstance(outcome, Applied)
    assert outcome.text == after


def test_an_overlapping_second_place_is_a_second_place() -> None:
    assert replace("aaa", "aa", "b") == Ambiguous((1, 1), ())


def test_signs_of_an_untouched_part_of_a_changed_line_stay() -> None:
    outcome = replace("say(“hi”, 'x…y')\n", "say(\"hi\", 'x...y')", "say(\"hi!\", 'x...y')")
    assert isinstance(outcome, Applied)
    assert outcome.text == "say(“hi!”, 'x…y')\n"
    assert outcome.adjustments == (Adjustment.LOOK_ALIKES,)


def test_composed_and_decomposed_accents_are_look_alikes() -> None:
    outcome = replace("cafe\u0301 = 1\n", "café = 1", "café = 2")
    assert isinstance(outcome, Applied)
    assert outcome.text == "cafe\u0301 = 2\n"


def test_several_places_under_another_indentation_are_not_chosen_among() -> None:
    text = "if a:\n    x()\n    y()\nif b:\n        x()\n        y()\n"
    outcome = replace(text, "  x()\n  y()\n", "  z()\n")
    assert outcome == Ambiguous((2, 5), (Adjustment.INDENTATION,))


def test_an_indentation_that_cannot_be_carried_over_is_refused_with_the_reason() -> None:
    text = "  a = 1\n  b = 1\n"
    refused = replace(text, "      a = 1\n      b = 1\n", "      a = 1\n  b = 2\n")
    assert isinstance(refused, Missed)
    assert "indentation" in refused.reason


@pytest.mark.parametrize(
    ("asked", "there", "line", "carried"),
    [
        (["    ", "        "], ["\t", "\t\t"], "            x", "\t\t\tx"),
        (["\t", "\t\t"], ["  ", "    "], "\t\t\tx", "      x"),
        (["", "    "], ["        ", "            "], "        x", "                x"),
        (["        "], ["    "], "            x", "        x"),
        (["    "], ["        "], "  ", ""),
    ],
)
def test_indentation_is_carried_over(asked: list[str], there: list[str], line: str, carried: str) -> None:
    shift = relate(asked, there)
    assert shift is not None
    assert shift.carry(line) == carried


@pytest.mark.parametrize(
    ("asked", "there"), [(["  ", "  "], ["  ", "    "]), (["  ", "    "], ["    ", "    "]), (["   "], ["\t\t"])]
)
def test_indentation_without_one_rule_is_not_guessed(asked: list[str], there: list[str]) -> None:
    assert relate(asked, there) is None


def test_a_miss_names_the_nearest_lines_and_what_differs() -> None:
    text = "import os\n\ndef area(w, h):\n    return w + h\n\nprint(area(1, 2))\n"
    candidate = nearest(text, "def area(w, h):\n    return w - h\n")
    assert candidate is not None
    assert (candidate.first_line, candidate.lines) == (3, ("def area(w, h):", "    return w + h"))
    assert candidate.differences == ((4, "    return w + h", "    return w - h"),)


def test_a_miss_far_from_everything_names_nothing() -> None:
    assert nearest("alpha\nbeta\n", "1234567890 zzz\n") is None


def test_a_long_miss_is_compared_by_its_words() -> None:
    lines = [f"    result_{n} = compute(first={n}, second={n % 7}, third=total)" for n in range(1_500)]
    quoted = [line.replace("total", "sum") for line in lines[200:1_200]]
    started = time.process_time()
    candidate = nearest("\n".join(lines), "\n".join(quoted))
    assert time.process_time() - started < 20  # letter by letter it takes minutes
    assert candidate is not None
    assert candidate.first_line == 201


@few
@given(st.text(max_size=600), st.integers(0, 400), st.text(max_size=20))
def test_cut_text_is_bounded_and_made_of_head_and_tail(text: str, limit: int, hint: str) -> None:
    cut = cut_middle(text, limit, hint)
    assert len(cut) <= max(limit, 0)
    if len(text) <= limit:
        assert cut == text
    else:
        head, mark, tail = cut.partition("\n[… ")
        assert text.startswith(head)
        if mark:
            assert any(text.endswith(tail[at:]) for at in range(len(tail)))


def test_cut_text_tells_how_much_is_missing_and_where_the_whole_is() -> None:
    cut = cut_middle("line\n" * 1_000, 400, "whole in log")
    assert "whole in log" in cut
    kept = cut.count("line\n")
    assert f"{5 * (1_000 - kept):,} characters, {1_000 - kept:,} line ends left out" in cut


def test_a_long_line_is_cut_with_its_size() -> None:
    assert cut_line("x" * 1_234, 10) == "xxxxxxxxxx… [1,224 more characters]"
    assert cut_line("short", 10) == "short"


def test_terminal_output_reads_as_on_a_screen() -> None:
    raw = "\x1b[1;31mred\x1b[0m\r\n 10%\r 50%\r100%\n\x1b]0;title\x07done\x00\b\n"
    assert plain(raw) == "red\n100%\ndone\n"


@few
@given(st.binary(max_size=200))
def test_decoding_and_encoding_gives_the_same_bytes(data: bytes) -> None:
    try:
        text, encoding = decode(data)
    except NotText:
        return
    assert encode(text, encoding) == data


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"plain", "utf-8"),
        ("é".encode(), "utf-8"),
        ("é".encode("utf-8-sig"), "utf-8 with BOM"),
        ("é".encode("utf-16"), "utf-16-le with BOM"),
        (b"\xfe\xff" + "é".encode("utf-16-be"), "utf-16-be with BOM"),
        ("é".encode("utf-32"), "utf-32-le with BOM"),
        (b"caf\xe9", "latin-1"),
    ],
)
def test_encodings_are_told_apart(data: bytes, name: str) -> None:
    assert decode(data)[1].name == name


def test_a_character_cut_by_the_end_of_a_sample_is_no_fault() -> None:
    assert detect("é".encode()[:1], whole=False).name == "utf-8"
    assert detect("é".encode()[:1], whole=True).name == "latin-1"


def test_line_ends_are_told_apart() -> None:
    assert [line_ending(text) for text in ("a\nb\n", "a\r\nb\r\n", "a\r\nb\n", "")] == ["\n", "\r\n", "mixed", "\n"]


@few
@given(st.text(max_size=60))
def test_lines_with_their_ends_join_to_the_text(text: str) -> None:
    assert "".join(with_ends(text)) == text


@few
@given(
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"").replace(b"\r", b"")), max_size=12),
    st.booleans(),
    st.integers(1, 14),
    st.integers(1, 14),
    st.integers(1, 14),
)
def test_a_window_is_that_of_the_whole(lines: list[bytes], closed: bool, start: int, count: int, most: int) -> None:
    data = b"\n".join(lines) + (b"\n" if closed and lines else b"")
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    window = read_window(io.BytesIO(data), start, count, most)
    assert window.total_lines == len(expected)
    assert list(window.lines) == [line[:most] for line in expected[start - 1 : start - 1 + count]]
    assert list(window.dropped_bytes) == [max(0, len(line) - most) for line in expected[start - 1 : start - 1 + count]]


def test_split_takes_windows_ends_along() -> None:
    assert split("a\r\nb\n\nc") == ["a", "b", "", "c"]
