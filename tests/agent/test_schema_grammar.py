"""Calls held to a JSON schema that somebody else wrote: what it says, and nothing worse where it says nonsense."""

from __future__ import annotations

import pytest

from kodkod_agent.schema_grammar import schema_pattern
from kodkod_engine.chat.template import call_pieces, encode_pieces
from kodkod_engine.constraints.turn_constraint import TurnConstraint
from kodkod_engine.messages import ToolCall, ToolSpec


def spec(**schema):
    return ToolSpec(name="f", description="", parameters={"type": "object", **schema})


@pytest.fixture
def admits(tokenizer):
    """Whether a call with these arguments may be written, token by token."""

    def check(tool, **arguments):
        turn = TurnConstraint(tokenizer, lambda _: [schema_pattern(tokenizer, tool)])
        ids = encode_pieces(tokenizer, call_pieces(ToolCall(id="", name="f", arguments=arguments)))
        for place, token_id in enumerate(ids):
            allowed = turn.allowed_ids(ids[:place])
            if allowed is not None and token_id not in allowed:
                return False
        return True

    return check


def test_types_choices_and_what_is_required(admits):
    tool = spec(
        properties={
            "text": {"type": "string", "minLength": 1},
            "unit": {"$ref": "#/$defs/unit"},
            "count": {"type": "integer", "minimum": 1},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}},
        },
        required=["text", "undeclared"],
        **{"$defs": {"unit": {"enum": ["m", "km"]}}},
    )
    assert admits(tool, text="any <text>\n")
    assert admits(tool, unit="km", text="x", count=3, tags=["a", "b"])
    for wrong in ({}, {"unit": "km"}, {"text": ""}, {"text": "x", "unit": "mm"}, {"text": "x", "count": 0}):
        assert not admits(tool, **wrong), wrong
    for wrong in ({"text": "x", "tags": ["c"]}, {"text": "x", "other": "y"}, {"text": "x", "count": "three"}):
        assert not admits(tool, **wrong), wrong


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/loop"},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.org/schema"},
        {"type": "string", "anyOf": [{"$ref": "#/$defs/loop"}, {"type": "null"}]},
        True,
        {},
    ],
)
def test_a_schema_that_says_nothing_allows_any_text(admits, schema):
    assert admits(spec(properties={"x": schema}, **{"$defs": {"loop": {"$ref": "#/$defs/loop"}}}), x="whatever")
