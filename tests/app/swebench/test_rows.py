"""Data sets in all their forms, and what is chosen of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from kodkod_app.swebench.predictions import read_predictions
from kodkod_app.swebench.rows import DatasetFault, Row, Selection, read_rows, write_rows

CLASSIC = {
    "repo": "a/b",
    "instance_id": "a__b-1",
    "base_commit": "0" * 40,
    "problem_statement": "It fails.",
    "patch": "",
    "FAIL_TO_PASS": '["t.py::test_a"]',
    "PASS_TO_PASS": ["t.py::test_b", "t.py::test_c[x y]"],
    "hints_text": "none",
}


def rows(count):
    return [Row(instance_id=f"a__b-{number}") for number in range(count)]


@pytest.mark.parametrize("form", ["jsonl", "json", "by_id", "parquet", "folder"])
def test_every_form_is_read(form, tmp_path):
    entries = [CLASSIC, {**CLASSIC, "instance_id": "a__b-2", "PASS_TO_PASS": '["t.py::test_b"]'}]
    if form == "parquet":
        entries = [{**entry, "PASS_TO_PASS": json.dumps(entry["PASS_TO_PASS"])} for entry in entries[:1]] + entries[1:]
    path = tmp_path / {"by_id": "d.json", "folder": "test.jsonl"}.get(form, f"d.{form}")
    if form in ("jsonl", "folder"):
        write_rows(entries, path)
    elif form == "parquet":
        parquet.write_table(pa.Table.from_pylist(entries), path)
    else:
        path.write_text(json.dumps({entry["instance_id"]: entry for entry in entries} if form == "by_id" else entries))
    found = read_rows(tmp_path if form == "folder" else path)
    assert [row.instance_id for row in found] == ["a__b-1", "a__b-2"]
    assert found[0].fail_to_pass == ("t.py::test_a",)
    assert "t.py::test_b" in found[1].pass_to_pass


@pytest.mark.parametrize("text", ['["t.py::test_a"]', "['t.py::test_a']"])
def test_lists_as_text(text):
    assert Row.model_validate({"instance_id": "a", "fail_to_pass": text}).fail_to_pass == ("t.py::test_a",)


def test_null_in_a_column_leaves_it_out(tmp_path):
    path = tmp_path / "d.jsonl"
    write_rows([dict.fromkeys(CLASSIC) | {"instance_id": "a__b-1", "version": None, "image": None}], path)
    row = read_rows(path)[0]
    assert (row.repo, row.version, row.fail_to_pass, row.image) == ("", "", (), None)


def test_a_table_with_dates_can_go_to_the_grader(tmp_path):
    entry = {**CLASSIC, "PASS_TO_PASS": [], "created_at": datetime(2024, 1, 2, tzinfo=UTC), "meta": {"raw": b"\xff"}}
    parquet.write_table(pa.Table.from_pylist([entry]), tmp_path / "d.parquet")
    write_rows([row.for_grader() for row in read_rows(tmp_path / "d.parquet")], tmp_path / "d.jsonl")
    assert json.loads((tmp_path / "d.jsonl").read_text())["created_at"].startswith("2024-01-02")


@pytest.mark.parametrize("name", ["image", "image_name", "docker_image"])
def test_every_name_of_the_image(name):
    row = Row.model_validate({**CLASSIC, "image": "", name: "x:1"})
    assert row.image == "x:1"
    assert row.for_grader()["image"] == "x:1"
    assert row.for_grader()["hints_text"] == "none"
    assert json.loads(row.for_grader()["FAIL_TO_PASS"]) == ["t.py::test_a"]


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_any_text_survives_what_the_official_loader_does(text):
    """Its loader parts a file by `str.splitlines`: U+2028, U+0085 and others would break a row in two."""
    line = json.dumps({"instance_id": "a", "problem_statement": text}, ensure_ascii=True)
    assert line.splitlines() == [line]


def test_rows_with_line_separators(tmp_path):
    path = tmp_path / "d.jsonl"
    odd = "one\u2028two\u0085three\x1cfour"
    write_rows([{**CLASSIC, "problem_statement": odd}], path)
    assert len(path.read_text().splitlines()) == 1
    path.write_text(json.dumps({**CLASSIC, "problem_statement": odd}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_rows(path)[0].problem_statement == odd, "a data set that was written unescaped is read all the same"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Selection(), [0, 1, 2, 3, 4]),
        (Selection(slice="1:3"), [1, 2]),
        (Selection(slice="-2:"), [3, 4]),
        (Selection(slice="::2"), [0, 2, 4]),
        (Selection(pattern=r"a__b-[13]"), [1, 3]),
        (Selection(pattern="b"), None),
        (Selection(("a__b-4", "a__b-0"), slice=":1"), [0]),
        (Selection(("a__b-9",)), None),
        (Selection(pattern="("), None),
        (Selection(slice="2"), None),
        (Selection(slice="::0"), None),
        (Selection(slice="a:b"), None),
    ],
)
def test_selection(chosen, expected):
    if expected is None:
        with pytest.raises(DatasetFault):
            chosen.of(rows(5))
    else:
        assert [int(row.instance_id[-1]) for row in chosen.of(rows(5))] == expected


@pytest.mark.parametrize(
    ("name", "text", "cause"),
    [
        ("d.jsonl", '{"instance_id": "a"}\n{"instance_id"', "line 2"),
        ("d.jsonl", '{"instance_id": "a"}\n{"instance_id": "a"}\n', "two rows named a"),
        ("d.jsonl", '{"repo": "a/b"}\n', "row 1: instance_id"),
        ("d.jsonl", '{"instance_id": "../../etc"}\n', "cannot name an instance"),
        ("d.jsonl", "[1]\n", "row 1: the row"),
        ("d.jsonl", '{"instance_id": "a", "FAIL_TO_PASS": "[x("}\n', "FAIL_TO_PASS: .* its text is no list"),
        ("d.json", "3", "cannot be read"),
        pytest.param("d.json", "[" * 100_000, "cannot be read", id="deep"),
        pytest.param("d.jsonl", "[" * 100_000, "cannot be read", id="deep line"),
        ("d.jsonl", "", "no rows"),
        ("d.csv", "a", "cannot be read as a data set"),
        ("d.parquet", "no", "cannot be read"),
        ("none", None, "there is no data set"),
    ],
)
def test_what_is_no_data_set(name, text, cause, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DatasetFault, match=cause):
        read_rows(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"instance_id": "a", "model_patch": "", "model_name_or_path": ".."}',
        '{"instance_id": "a", "model_patch": "", "model_name_or_path": "a\\u0000"}',
        '{"instance_id": "a", "model_patch": "", "model_name_or_path": "a\\ud800"}',
    ],
    ids=["deep", "above", "null", "half"],
)
def test_what_are_no_predictions(text, tmp_path):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(DatasetFault, match="holds no predictions"):
        read_predictions(tmp_path / "p.jsonl")
