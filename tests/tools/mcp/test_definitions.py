"""What is taken of a stranger's definitions, and that checking arguments against them ends soon."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kodkod_tools.mcp.definitions import MAX_DESCRIPTION_CHARS, Offered, define, take
from kodkod_tools.mcp.followed import why_not_held
from kodkod_tools.mcp.schemas import MAX_SCHEMA_CHARS, Checker

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 1}, "b": {"enum": ["x", "y"]}},
    "required": ["a"],
    "additionalProperties": False,
}


DRAFTS = [
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
]


def offered(name="add", description="Adds.", schema=SCHEMA):
    return Offered(name, description, schema)


def refusal(**what):
    found = take("s", [offered(**what)])
    assert not found.taken
    [line] = found.refused
    assert line.isprintable()
    return line


def test_a_plain_definition_is_taken_as_it_is():
    definition = define("s", offered())
    assert definition.spec.name == "mcp__s__add"
    assert (definition.spec.description, definition.spec.parameters) == ("Adds.", SCHEMA)


def test_arguments_are_checked_against_the_schema():
    checker = Checker(SCHEMA)
    assert checker.faults({"a": 1, "b": "x"}) == []
    assert checker.faults({"a": 0}) == ["a: 0 is less than the minimum of 1"]
    assert set(checker.faults({"b": "z"})) == {"'a' is a required property", "b: 'z' is not one of ['x', 'y']"}
    assert "'c' was unexpected" in checker.faults({"a": 1, "c": 2})[0]


@pytest.mark.parametrize("draft", DRAFTS)
def test_lists_of_fixed_items_are_checked_by_the_draft_they_are_of(draft):
    pair = {"type": "array", "items": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2}
    schema = {"$schema": draft, "type": "object", "properties": {"pair": pair}}
    assert Checker(schema).faults({"pair": [1, "x"]}) == []
    assert Checker(schema).faults({"pair": ["x", "x"]}) == ["pair.0: 'x' is not of type 'integer'"]
    assert take("s", [offered(schema=schema)]).taken
    for other in ("http://json-schema.org/draft-04/schema#", "https://json-schema.org/draft/2020-12/schema", "x:", 5):
        with pytest.raises(ValueError, match="its schema is none"):
            Checker({**schema, "$schema": other})


@pytest.mark.parametrize("name", ["", "two words", "x" * 65, "a\x1b[31m", "</longcat_tool_call>", "ä", "a/b"])
def test_odd_names_are_refused_in_a_line_that_can_be_shown(name):
    assert "is left out: a name has up to 64" in refusal(name=name)


def test_a_name_of_ours_is_no_longer_ours_with_its_prefix():
    assert list(take("s", [offered("shell"), offered("finish")]).taken) == ["mcp__s__shell", "mcp__s__finish"]


def test_two_tools_cannot_have_one_name():
    found = take("s", [offered("a.b", "first"), offered("a-b", "second")])
    assert [one.spec.description for one in found.taken.values()] == ["first"]
    assert found.refused == ("MCP server s: its tool 'a-b' is left out: another has that name",)


def test_descriptions_are_cleaned_and_cut():
    text = "\x1b[31mred\x1b[0m\x00 \u202eturned\u200b [bold]" + "x" * 10_000
    told = define("s", offered(description=text)).spec.description
    assert told.startswith("red turned [bold]xxx")
    assert len(told) == MAX_DESCRIPTION_CHARS
    schema = {"type": "object", "properties": {"a": {"description": "\x1b]0;title\x07see"}}}
    assert define("s", offered(schema=schema)).spec.parameters["properties"]["a"] == {"description": "see"}


@pytest.mark.parametrize(
    ("schema", "cause"),
    [
        ({}, 'not of type "object"'),
        ({"type": "object", "properties": 3}, "its schema is none"),
        ({"type": "object", "required": "a"}, "its schema is none"),
        ({"type": "object", "properties": {f"p{n}": {} for n in range(65)}}, "more than 64 arguments"),
        ({"type": "object", "properties": {"</longcat_arg_key>": {}}}, "an argument cannot be called"),
        ({"type": "object", "description": "x" * MAX_SCHEMA_CHARS}, "more than 16,000"),
    ],
)
def test_schemas_that_cannot_be_used_are_refused(schema, cause):
    assert cause in refusal(schema=schema)


def test_a_schema_deeper_than_the_stack_is_refused():
    schema = {}
    for _ in range(1_500):
        schema = {"not": schema}
    assert "more than 32 levels" in refusal(schema={"type": "object", "properties": {"x": schema}})


def doubling(depth):
    parts = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(depth)}
    return {"type": "object", "properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": {**parts, f"d{depth}": {}}}


@pytest.mark.parametrize(
    "schema",
    [
        doubling(40),
        {"type": "object", "properties": {"x": {"$ref": "#/properties/x"}}},
        {"type": "object", "properties": {"x": {"$ref": "http://127.0.0.1:9/schema"}}},
        {"type": "object", "properties": {"x": {"$ref": "#/nowhere"}}},
    ],
)
def test_a_check_ends_soon_and_fetches_nothing(schema):
    for named in ({}, *({"$schema": draft} for draft in DRAFTS)):
        [fault] = Checker({**named, **schema}).faults({"x": 1})
        assert "it cannot be called" in fault


def test_patterns_are_not_obeyed():
    slow = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$", "format": "date"}}}
    for named in ({}, *({"$schema": draft} for draft in DRAFTS)):
        assert Checker({**named, **slow}).faults({"x": "a" * 60 + "!"}) == []
    assert Checker({"type": "object", "patternProperties": {"^(a+)+$": False}}).faults({"a" * 60 + "!": 1}) == []


def test_every_difference_is_another_fingerprint():
    same = define("s", offered()).fingerprint
    assert define("other", offered()).fingerprint == same
    others = [offered(name="sub"), offered(description="Adds!"), offered(description="Adds.\u200b"),
              offered(schema={**SCHEMA, "required": []})]  # fmt: skip
    assert len({same, *(define("s", one).fingerprint for one in others)}) == 5


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.text(max_size=20),
    st.text(max_size=50),
    st.dictionaries(st.sampled_from(["type", "properties", "$ref", "anyOf", "enum", "items", "required"]), values),
)
def test_whatever_is_offered_it_is_taken_or_named(name, description, schema):
    found = take("s", [Offered(name, description, {"type": "object", **schema})])
    assert len(found.taken) + len(found.refused) == 1
    for definition in found.taken.values():
        assert isinstance(definition.checker.faults({"x": 1}), list)
        json.dumps(definition.spec.parameters)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 1},
        {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}, "maxItems": 3},
        {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        {"type": "object", "properties": {"a": {"type": "boolean"}}, "additionalProperties": False},
    ],
)
def test_plain_schemas_are_followed(schema):
    assert why_not_held(schema) == ""


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "#/$defs/a"}, "$ref"),
        ({"type": "array", "items": {"type": "string", "pattern": "a"}}, "pattern"),
        ({"allOf": []}, "allOf"),
        ({"type": "array", "maxItems": 10**9}, "counts beyond"),
        ({"enum": list(range(2_000))}, "choices"),
        ({"items": {"items": {"items": {"items": {"items": {"items": {}}}}}}}, "inside each other"),
        ({"properties": {"a": 3}}, "no schema"),
    ],
)
def test_others_are_not_and_the_reason_is_told(schema, reason):
    assert reason in why_not_held(schema)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"multipleOf": 0.1}, 10**400),
        ({"$ref": "#/title"}, 1),
        ({"$ref": "#/examples"}, 1),
        ({"$ref": "#/examples/first"}, 1),
    ],
    ids=["number", "text", "list", "index"],
)
def test_what_the_library_cannot_check_is_told_as_a_fault(schema: dict[str, Any], value: Any) -> None:
    whole = {"type": "object", "title": "t", "examples": [1], "properties": {"x": schema}}
    (fault,) = Checker(whole).faults({"x": value})
    assert "this cannot be checked by the tool's own schema" in fault


def test_items_that_must_differ_are_not_compared_each_with_each() -> None:
    checker = Checker({"type": "object", "properties": {"x": {"uniqueItems": True}}})
    items = [{"number": number} if number % 2 else [number] for number in range(3_000)]
    began_s = time.process_time()
    assert checker.faults({"x": items}) == []
    assert checker.faults({"x": [1, True, "1", {"a": 1, "b": 2}]}) == []
    assert checker.faults({"x": [{"a": 1, "b": 2}, {"b": 2, "a": 1}]}) == ["x: an item is there more than once"]
    assert time.process_time() - began_s < 2
