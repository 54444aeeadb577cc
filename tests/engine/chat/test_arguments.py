import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_engine.chat.arguments import read_argument, read_list, read_object, write_value

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False)),
    lambda inner: st.one_of(
        st.lists(st.one_of(inner, st.text(max_size=5)), max_size=3),
        st.dictionaries(st.text(max_size=5), st.one_of(inner, st.text(max_size=5)), max_size=3),
    ),
    max_leaves=8,
)


def schema(**properties):
    return {"type": "object", "properties": properties}


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_a_string_is_taken_verbatim(text):
    parameters = schema(x={"type": "string"}, y={"enum": ["a", "b"]}, z={"const": "c"})
    assert all(read_argument(text, name, parameters) == text for name in "xyz")


@settings(max_examples=200, deadline=None)
@given(value=json_values)
def test_any_other_value_comes_back(value):
    assert read_argument(write_value(value), "x", schema(x={})) == value


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="[]{}()'\"\\,:0123456789.eEx-+ \n\0TrueNonabjFlsé", max_size=20))
def test_no_text_raises(text):
    value = read_argument(text, "x", schema(x={"type": "array"}))
    assert value == text or not isinstance(value, bytes | set | complex)
    read_object("{" + text)
    read_list(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        (" true\n", True),
        ("True", True),
        ("None", None),
        ("{'a': [1, None]}", {"a": [1, None]}),
        ("(1, 2)", [1, 2]),
        ("{1, 2}", "{1, 2}"),
        ("b'x'", "b'x'"),
        ("NaN", "NaN"),
        ("1e999", "1e999"),
        ("plain words", "plain words"),
        ("", ""),
        ("[" * 100_000, "[" * 100_000),
        ("9" * 5000, "9" * 5000),
        ('"\\ud800"', "\ufffd"),
    ],
)
def test_json_then_literal_then_the_text(text, value):
    assert read_argument(text, "x", schema(x={"type": "object"})) == value


@pytest.mark.parametrize(
    ("declared", "text", "value"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "null", None),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, " 12", " 12"),
        ({"type": ["string", "null"]}, "null ", "null "),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "12", 12),
        ({"type": ["string", "integer"]}, "12", 12),
        ({"$ref": "#/$defs/Name"}, "12", "12"),
        ({"anyOf": [{"$ref": "#/$defs/Name"}, {"type": "null"}]}, "12", "12"),
        ({"$ref": "#/$defs/Loop"}, "12", 12),
        ({"$ref": "#/nowhere"}, "12", 12),
        ({"enum": []}, "12", 12),
        ({"enum": ["1", 2]}, "2", 2),
        (True, "12", 12),
    ],
)
def test_what_counts_as_a_string(declared, text, value):
    parameters = {
        **schema(x=declared),
        "$defs": {"Name": {"type": "string"}, "Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}]}},
    }
    assert read_argument(text, "x", parameters) == value


def test_a_tool_without_properties():
    assert read_argument("[1]", "x", {"properties": None}) == [1]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"key": "x"}', {"key": "x"}),
        ('{key: "a: b", other: [1]}', {"key": "a: b", "other": [1]}),
        ("{key: 'x', flag: True}", {"key": "x", "flag": True}),
        ("[1]", None),
        ("{", None),
        ("words", None),
    ],
)
def test_objects(text, value):
    assert read_object(text) == value


def test_a_long_word_that_is_no_key_is_passed_over_once():
    """Such as an encoded file in a call that was cut off; the square of its length would be minutes."""
    assert read_object('{"name": "write", "arguments": {"content": "' + "QUJD" * 50_000) is None
    assert read_object("{" + "k" * 200_000 + ": 1}") == {"k" * 200_000: 1}


def test_floats_are_exact():
    assert read_argument(write_value(math.pi), "x", {}) == math.pi
