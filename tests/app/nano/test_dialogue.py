"""Dialogues as token ids: the template's own, each with the loss it should bear."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_app.nano.dialogue import (
    Dialogue,
    Document,
    Encoder,
    Origin,
    Weight,
    edit_turn,
    finish_turn,
    restore_turn,
    run_turn,
    view_turn,
)
from kodkod_app.repair_prompt import failing_prompt
from kodkod_engine.chat.template import render
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, UserMessage

VIEW = "pkg/a.py, lines 4-5 of 9\n4|def f(x):\n5|    return x <= 1\n[4 more lines: view with start=6]"


@pytest.fixture
def dialogue() -> Dialogue:
    turns = (
        run_turn("1 failed in 0.1 s [exit code 1]", locate=True),
        view_turn("pkg/a.py", 4, 5, VIEW),
        edit_turn("pkg/a.py", 5, " x", " y", "edited pkg/a.py\n5|    return y <= 1", learnt=False),
        run_turn("1 failed in 0.1 s [exit code 1]"),
        restore_turn("pkg/a.py", "restored pkg/a.py from HEAD: pkg/a.py"),
        edit_turn("pkg/a.py", 5, " <=", "", "edited pkg/a.py\n5|    return x < 1"),
        run_turn("1 passed in 0.1 s [exit code 0]"),
        finish_turn(),
    )
    return Dialogue(("tests/test_a.py::test_f",), turns, "comparison", Origin.REAL)


def texts(document: Document, tokenizer: Tokenizer, weight: Weight) -> str:
    ids = [token for token, given in zip(document.ids, document.weights, strict=True) if given == weight]
    return tokenizer.decode(ids, skip_special=False)


def test_ids_are_those_of_the_template(dialogue: Dialogue, tokenizer: Tokenizer) -> None:
    document = Encoder(tokenizer).encode(dialogue)
    assert document.ids == render(tokenizer, dialogue.messages())
    assert document.ids[-1] == tokenizer.eos_id


def test_decisions_are_the_values_and_their_ends(dialogue: Dialogue, tokenizer: Tokenizer) -> None:
    end = "</longcat_arg_value>"
    values = ["pkg/a.py", "4", "5", "pkg/a.py", "5", " <=", ""]
    decided = texts(Encoder(tokenizer).encode(dialogue), tokenizer, Weight.DECISION)
    assert decided == "".join(value + end for value in values)


def test_views_are_read_for_their_code(dialogue: Dialogue, tokenizer: Tokenizer) -> None:
    assert texts(Encoder(tokenizer).encode(dialogue), tokenizer, Weight.CODE) == VIEW.partition("\n")[2]


def test_a_step_that_was_wrong_is_not_learnt(dialogue: Dialogue, tokenizer: Tokenizer) -> None:
    learnt = texts(Encoder(tokenizer).encode(dialogue), tokenizer, Weight.SYNTAX)
    assert learnt.count("<longcat_tool_call>edit\n") == 1
    assert learnt.count("<longcat_tool_call>") == len(dialogue.turns) - 1


def test_the_user_speaks_as_the_fix_command(dialogue: Dialogue) -> None:
    first = dialogue.messages()[0]
    assert isinstance(first, UserMessage)
    assert first.text == failing_prompt(dialogue.tests)


def test_a_dialogue_may_end_with_a_call(dialogue: Dialogue, tokenizer: Tokenizer) -> None:
    cut = Dialogue(dialogue.tests, (*dialogue.turns[:2], edit_turn("a.py", 1, "x", "y")), "constant", Origin.SIMULATED)
    assert isinstance(cut.messages()[-1], AssistantMessage)
    assert Encoder(tokenizer).encode(cut).ids == render(tokenizer, cut.messages())


@settings(max_examples=100, deadline=None)
@given(code=st.text(max_size=80), old=st.text(min_size=1, max_size=20))
def test_whatever_a_file_holds_is_encoded_as_data(tokenizer: Tokenizer, code: str, old: str) -> None:
    turns = (
        view_turn("a.py", 1, 2, f"a.py, lines 1-2 of 2\n1|{code}\n2|</longcat_s>"),
        edit_turn("a.py", 1, old, code),
    )
    found = Dialogue(("t.py::t",), turns, "constant", Origin.SIMULATED)
    assert Encoder(tokenizer).encode(found).ids == render(tokenizer, found.messages())
