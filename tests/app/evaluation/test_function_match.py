"""The rules by which calls are compared: those of the leaderboard's checker."""

from __future__ import annotations

import pytest

from kodkod_app.evaluation.function_match import mismatch, standard
from kodkod_engine.messages import ToolCall, ToolSpec

PROPERTIES = {
    "text": {"type": "string"},
    "number": {"type": "number"},
    "whole": {"type": "integer"},
    "flag": {"type": "boolean"},
    "list": {"type": "array"},
    "thing": {"type": "object"},
}
SPECS = [
    ToolSpec(name="f", description="", parameters={"properties": PROPERTIES, "required": ["text"]}),
    ToolSpec(name="g", description="", parameters={"properties": PROPERTIES, "required": []}),
]


def call(name, **arguments):
    return ToolCall(id="1", name=name, arguments=arguments)


def one(given, **accepted):
    return mismatch([call("f", **given)], [{"f": accepted}], SPECS)


@pytest.mark.parametrize(
    ("given", "accepted", "fits"),
    [
        ({"text": "New York, N.Y."}, {"text": ["new york ny"]}, True),
        ({"text": "2026/01/02"}, {"text": ["2026-01-02"]}, True),
        ({"text": "a"}, {"text": ["b"]}, False),
        ({"text": "it's"}, {"text": ['it"s']}, True),
        ({"text": "a"}, {"text": ["b", "a"]}, True),
        ({"text": 3}, {"text": ["3"]}, False),
        ({}, {"text": ["a"]}, False),
        ({"text": "a"}, {"text": ["a"], "whole": [1, ""]}, True),
        ({"text": "a"}, {"text": ["a"], "whole": [1]}, False),
        ({"text": "a", "whole": 1}, {"text": ["a"]}, False),
        ({"text": "a", "other": 1}, {"text": ["a"], "other": [1]}, False),
        ({"text": "a", "number": 3}, {"text": ["a"], "number": [3.0]}, True),
        ({"text": "a", "whole": 3.5}, {"text": ["a"], "whole": [3]}, False),
        ({"text": "a", "whole": "Any_Year"}, {"text": ["a"], "whole": ["", "Any_Year"]}, True),
        ({"text": "a", "whole": "anyyear"}, {"text": ["a"], "whole": ["", "Any_Year"]}, False),
        ({"text": True}, {"text": ["", True]}, True),
        ({"text": 1.5}, {"text": [True]}, False),
        ({"text": "a", "whole": True}, {"text": ["a"], "whole": [1]}, False),
        ({"text": "a", "flag": True}, {"text": ["a"], "flag": [True]}, True),
        ({"text": "a", "flag": 1}, {"text": ["a"], "flag": [True]}, False),
        ({"text": "a", "list": ["X", 1]}, {"text": ["a"], "list": [["x", 1]]}, True),
        ({"text": "a", "list": "data['x']"}, {"text": ["a"], "list": ["data['x']"]}, True),
        ({"text": "a", "list": "x"}, {"text": ["a"], "list": [[1], ""]}, False),
        ({"text": "a", "list": [1, 2]}, {"text": ["a"], "list": [[2, 1]]}, False),
        ({"text": "a", "thing": {"k": "V"}}, {"text": ["a"], "thing": [{"k": ["v"], "o": ["x", ""]}]}, True),
        ({"text": "a", "thing": {"k": "w"}}, {"text": ["a"], "thing": [{"k": ["v"]}]}, False),
        ({"text": "a", "thing": {"k": "v", "x": 1}}, {"text": ["a"], "thing": [{"k": ["v"]}]}, False),
    ],
)
def test_arguments(given, accepted, fits):
    assert (one(given, **accepted) == "") is fits, one(given, **accepted)


def test_calls_of_one_turn_come_in_any_order():
    first, second = call("f", text="a"), call("g", whole=1)
    expected = [{"g": {"whole": [1]}}, {"f": {"text": ["a"]}}]
    assert mismatch([first, second], expected, SPECS) == ""
    assert "2 are expected" in mismatch([first], expected, SPECS)
    assert "no call is" in mismatch([first, first], expected, SPECS)
    assert mismatch([first], [], SPECS) == "1 calls where 0 are expected"
    assert mismatch([], [], SPECS) == ""
    assert "was called, not f" in mismatch([second], [{"f": {"text": ["a"]}}], SPECS)


def test_a_call_that_cannot_be_read_is_none():
    broken = ToolCall(id="1", name="f", raw="f(", fault="it has no end")
    assert "it has no end" in mismatch([broken], [{"f": {"text": ["a"]}}], SPECS)


def test_the_signs_that_do_not_count():
    assert standard("A b,c.d/e-f_g*h^i'") == 'abcdefghi"'
