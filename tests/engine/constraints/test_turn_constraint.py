"""Turns of a model that is left to itself; what calls may say is tested where it is found out."""

from __future__ import annotations

from collections.abc import Sequence

from kodkod_engine.chat.special_tokens import Piece, Tag
from kodkod_engine.chat.template import encode_pieces
from kodkod_engine.constraints.acceptors import OneOf, ValueState
from kodkod_engine.constraints.patterns import Argument, CallPattern
from kodkod_engine.constraints.turn_constraint import TurnConstraint


class Refusing:
    """Cannot be made."""

    def start(self) -> ValueState:
        raise ValueError("the file\nis too long")


def edit(path: str, old: str) -> Sequence[Piece]:
    pairs = [
        piece
        for key, value in (("path", path), ("old", old))
        for piece in (Tag.ARG_KEY, key, Tag.ARG_KEY_END, "\n", Tag.ARG_VALUE, value, Tag.ARG_VALUE_END, "\n")
    ]
    return [Tag.TOOL_CALL, "edit\n", *pairs, Tag.TOOL_CALL_END]


def test_what_a_draft_met_and_was_not_taken_is_not_told_of_the_turn(tokenizer):
    acceptors = {"large.py": Refusing(), "small.py": OneOf(tokenizer, ["x"])}
    path = Argument("path", OneOf(tokenizer, acceptors), lambda path: Argument("old", acceptors[path]))
    constraint = TurnConstraint(tokenizer, lambda _: [CallPattern("edit", path)])
    drafted, said = (encode_pieces(tokenizer, ["So:", *edit(name, "x")]) for name in acceptors)
    for ids in (drafted, said):
        for place in range(len(ids)):
            allowed = constraint.allowed_ids(ids[:place])
            assert allowed is None or ids[place] in allowed
    line = "edit.old: the file is too long; any text was allowed"
    assert constraint.loosened == (line,)
    assert constraint.loosened_by(said) == ()
    assert constraint.loosened_by([*drafted, tokenizer.eos_id]) == (line,)
