"""Tools on a database: what they do, refuse and leave."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_app.evaluation.desk import Desk, ToolRefusal, fingerprint_after
from kodkod_app.evaluation.suite import CallPattern, SuiteFault, World

PLAN = {
    "database": {"tables": "CREATE TABLE t (id TEXT, n INTEGER);", "rows": {"t": [["a", 1], ["b", 2]]}},
    "tools": [
        {"name": "get", "parameters": {"id": {"type": "string"}}, "give": "SELECT * FROM t WHERE id = :id"},
        {
            "name": "add",
            "parameters": {"id": {"type": "string"}, "n": {"type": "integer", "default": 1}},
            "require": [{"sql": "SELECT 1 FROM t WHERE id = :id", "otherwise": "no {id}"}],
            "do": ["UPDATE t SET n = n + COALESCE(:n, 1) WHERE id = :id"],
        },
        {"name": "break", "do": ["UPDATE t SET n = 0", "UPDATE none SET n = 0"]},
        {"name": "pick", "parameters": {"id": {"type": "string", "enum": ["a", "b"]}}},
    ],
    "user_tools": [{"name": "look", "give": "SELECT n FROM t WHERE id = 'a'"}],
}


@pytest.fixture
def desk():
    made = Desk(World.model_validate(PLAN))
    yield made
    made.close()


def test_calls(desk):
    assert json.loads(desk.call("get", {"id": "a"})) == {"id": "a", "n": 1}
    assert json.loads(desk.call("add", {"id": "a", "n": 4})) == "done"
    assert json.loads(desk.call("add", {"id": "a"})) == "done"
    assert json.loads(desk.call("look", {}, by_user=True)) == {"n": 6}
    assert json.loads(desk.call("get", {"id": "z"})) == []


@pytest.mark.parametrize(
    ("name", "arguments", "cause"),
    [
        ("none", {}, "there is no tool none; there are get"),
        ("look", {}, "there is no tool look"),
        ("get", {}, "get needs id"),
        ("get", {"id": "a", "x": 1}, "get takes no x"),
        ("get", {"id": 1}, "id must be string, not 1"),
        ("add", {"id": "a", "n": True}, "n must be integer, not True"),
        ("pick", {"id": "c"}, "id must be a or b"),
        ("add", {"id": "z"}, "no z"),
        ("break", {}, "the database refused"),
        ("add", {"id": "a", "n": 10**30}, "the database refused"),
        ("get", {"id": "\ud800"}, "the database refused"),
    ],
)
def test_what_cannot_be_done_changes_nothing(name, arguments, cause, desk):
    before = desk.fingerprint
    assert cause in json.loads(desk.call(name, arguments))["error"]
    assert desk.fingerprint == before


@given(st.permutations([("a", 1), ("b", 2), ("c", 3)]))
@settings(max_examples=10, deadline=None)
def test_the_hash_is_of_what_is_there(rows):
    plan = {**PLAN, "database": {**PLAN["database"], "rows": {"t": rows}}}
    in_order = {**plan, "database": {**PLAN["database"], "rows": {"t": sorted(rows)}}}
    first, second = Desk(World.model_validate(plan)), Desk(World.model_validate(in_order))
    assert first.fingerprint == second.fingerprint
    first.call("add", {"id": "a"})
    assert first.fingerprint != second.fingerprint


def test_the_expected_hash():
    world = World.model_validate(PLAN)
    desk = Desk(world)
    desk.call("add", {"id": "b", "n": 3})
    assert desk.fingerprint == fingerprint_after(world, [CallPattern(name="add", arguments={"id": "b", "n": 3})])
    with pytest.raises(SuiteFault, match="the expected call add cannot be done"):
        fingerprint_after(world, [CallPattern(name="add", arguments={"id": "z"})])
    with pytest.raises(SuiteFault, match="cannot be run"):
        desk.query("SELECT * FROM none")


def test_python_tools(tmp_path):
    (tmp_path / "own.py").write_text(
        "def count(database, least):\n"
        "    return database.execute('SELECT COUNT(*) FROM t WHERE n >= ?', [least]).fetchone()[0]\n"
    )

    def refuse(_database):
        raise ToolRefusal("not today")

    tools = [
        {"name": "count", "parameters": {"least": {"type": "integer"}}, "python": "own.py:count"},
        {"name": "refuse", "python": refuse},
    ]
    desk = Desk(World.model_validate({**PLAN, "tools": tools}), tmp_path)
    assert desk.call("count", {"least": 2}) == "1"
    assert json.loads(desk.call("refuse", {})) == {"error": "not today"}
    for place in ("own.py:none", "none.py:f", "kodkod_app.none:f"):
        with pytest.raises(SuiteFault, match="has no function"):
            Desk(World.model_validate({**PLAN, "tools": [{"name": "x", "python": place}]}), tmp_path)


def test_a_database_that_cannot_be_made():
    with pytest.raises(SuiteFault, match="cannot be made"):
        Desk(World.model_validate({"database": {"tables": "CREATE", "rows": {}}}))
