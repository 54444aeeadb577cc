from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from kodkod_app.nano.spans import PRE_TOKEN, Edit, EditDoesNotApply, applied, edit_between, pre_tokens

_PIECES = [
    "    ",
    " ",
    "x",
    " y",
    "12",
    "3456",
    " <=",
    "==",
    "(",
    ")",
    " not",
    "'",
    '"',
    ".",
    "é",
    " ²",
    "\t",
    "_a",
    "#",
]
lines = st.lists(st.sampled_from(_PIECES), min_size=1, max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("45|    return x <= y", ["45", "|", "    ", "return", " x", " <=", " y"]),
        ("x1 = 1234567", ["x1", " =", " ", "1", "234", "567"]),
        ("a **= b // 2", ["a", " **=", " b", " //", " ", "2"]),
        ('f(x, "a")\n', ["f", "(", "x", ",", ' "', "a", '"', ")", "\n"]),
        ("näh 1_000", ["n", "ä", "h", " ", "1", "_000"]),
    ],
)
def test_pre_tokens(text: str, pieces: list[str]) -> None:
    assert pre_tokens(text) == pieces


@given(st.text(alphabet=st.sampled_from("ab1234 \t\n=<>!*/.,()'\"éß中²_"), max_size=40) | st.text(max_size=30))
@settings(max_examples=300, deadline=None)
def test_the_tokenizer_library_splits_the_same_way(text: str) -> None:
    split = Split(Regex(PRE_TOKEN), behavior="isolated")
    assert [piece for piece, _ in split.pre_tokenize_str(text)] == pre_tokens(text)
    assert "".join(pre_tokens(text)) == text


@given(lines, st.data())
@settings(max_examples=200, deadline=None)
def test_a_run_of_pieces_splits_alone_as_in_its_line(line: str, data: st.DataObject) -> None:
    pieces = pre_tokens(line)
    first = data.draw(st.integers(0, len(pieces)))
    last = data.draw(st.integers(first, len(pieces)))
    assert pre_tokens("".join(pieces[first:last])) == pieces[first:last]


@given(lines, lines)
@settings(max_examples=300, deadline=None)
def test_an_edit_makes_one_line_into_the_other(before: str, after: str) -> None:
    if before == after or not before.strip():
        with pytest.raises(ValueError, match="a line with text"):
            edit_between(1, before, after)
        return
    edit = edit_between(2, before, after)
    assert applied(f"head\n{before}\ntail", edit) == f"head\n{after}\ntail"
    assert applied(f"head\n{before}", edit) == f"head\n{after}"


@pytest.mark.parametrize(
    ("before", "after", "edit"),
    [
        ("    return x <= y", "    return x < y", Edit(1, " <=", " <")),
        ("    return x", "    return not x", Edit(1, " x", " not x")),
        ("    x", "    return x", Edit(1, "x", "return x")),
        ("f(a, a)", "f(a, b)", Edit(1, " a", " b")),
        ("f(a,a)", "f(a,b)", Edit(1, "a)", "b)")),
        ("f(a,a)", "f(b,a)", Edit(1, "a,", "b,")),
        ("  a = 1", "  a = 1\n  b = 2", Edit(1, "a = 1", "a = 1\n  b = 2")),
    ],
)
def test_the_span_is_the_shortest_that_stands_once(before: str, after: str, edit: Edit) -> None:
    assert edit_between(1, before, after) == edit


@pytest.mark.parametrize("edit", [Edit(3, "a", "b"), Edit(1, "z", "b"), Edit(1, "a", "b"), Edit(1, "", "b")])
def test_an_edit_that_does_not_fit_is_refused(edit: Edit) -> None:
    with pytest.raises(EditDoesNotApply):
        applied("a a\nz", edit)
