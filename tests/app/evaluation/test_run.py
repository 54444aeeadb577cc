"""`kodkod eval SUITE` by the command: trials, resumption, reports, users, and suites that cannot be."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from kodkod_app.evaluation.agents import scripted_model
from kodkod_app.evaluation.checks import check_talk
from kodkod_app.evaluation.desk import Desk
from kodkod_app.evaluation.dialogue import Dialogue
from kodkod_app.evaluation.records import Trial
from kodkod_app.evaluation.report import junit, summary
from kodkod_app.evaluation.suite import Expectation, SuiteFault, User, World
from kodkod_app.evaluation.suite_files import load_suite
from kodkod_app.evaluation.transcript import Made, Transcript
from kodkod_app.evaluation.users import ModelUser, ScriptedUser
from kodkod_app.recorded_model import RecordedCall, RecordedTurn
from kodkod_engine.api import SamplingParams

SUITE = """\
suite: small
kind: functions
tasks:
  - id: aye
    category: a
    prompt: Say aye.
    expect: {said: [aye]}
    reference: [{text: aye}]
    wrong: [{text: nay}]
  - id: nay
    category: b
    prompt: Say nay.
    expect: {said: [nay], not_said: [aye]}
    reference: [{text: nay}]
    wrong: [{text: aye}]
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(SUITE)
    return path


def test_trials_reports_and_going_on(kodkod, record, suite, tmp_path):
    out = tmp_path / "out"
    model = record({"text": "aye", "calls": []})
    first = kodkod("eval", suite, "-o", out, "-m", model, "--seed", "5", "--task", "aye")
    assert first.code == 0, first.err
    before = (out / "records.jsonl").read_bytes()
    again = kodkod("eval", suite, "-o", out, "-m", model, "--seed", "5", "--trials", "3", "--workers", "2")
    assert again.code == 0, again.err
    assert (out / "records.jsonl").read_bytes().startswith(before)
    trials = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    assert sorted((one["task"], one["number"], one["seed"], one["passed"]) for one in trials) == [
        ("aye", 1, 5, True), ("aye", 2, 6, True), ("aye", 3, 7, True),
        ("nay", 1, 5, False), ("nay", 2, 6, False), ("nay", 3, 7, False),
    ]  # fmt: skip
    found = json.loads((out / "report.json").read_text())
    assert [entry["pass_hat_k"] for entry in found["all"]["by_k"]] == [0.5, 0.5, 0.5]
    assert found["by_task"]["small/nay"]["reasons"] == ["'nay' was not said", "'aye' was said"]
    tree = ElementTree.parse(out / "junit.xml").getroot()
    assert {case.get("name"): len(case) for case in tree.iter("testcase")}["nay[2]"] == 1
    assert tree[0].attrib["failures"] == "3"
    assert "| small | 50.0 % (1 of 2;" in again.out
    assert json.loads((out / "transcripts" / "small.aye.1.json").read_text())["said"][1] == ["agent", "aye"]
    refused = kodkod("eval", suite, "-o", out, "-m", model, "--seed", "6")
    assert (refused.code, "another seed" in refused.err) == (2, True)


@pytest.mark.slow
def test_the_random_model_is_a_model(kodkod, suite, tmp_path):
    ended = kodkod("eval", suite, "-o", tmp_path / "out", "--agent", "random", "--task", "aye")
    assert ended.code == 0, ended.err
    assert json.loads((tmp_path / "out" / "records.jsonl").read_text())["generated_tokens"] > 0


def test_a_python_suite(tmp_path):
    (tmp_path / "s.py").write_text(
        "def double(database, n):\n    return 2 * n\n\n\n"
        "SUITE = {'suite': 's', 'kind': 'dialogue', 'world': {'tools': [{'name': 'double', 'python': double,"
        " 'parameters': {'n': {'type': 'integer'}}}]}, 'tasks': [{'id': 't', 'user': {'opening': '4?'},"
        " 'expect': {'said': ['8']}, 'reference': [{'calls': [{'name': 'double', 'arguments': {'n': 4}}]},"
        " {'text': '8'}], 'wrong': [{'text': '4'}]}]}\n"
    )
    suite = load_suite(str(tmp_path / "s.py"))
    assert suite.world.tools[0].spec.parameters["required"] == ["n"]
    assert suite.folder == tmp_path


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (None, "there is no suite"),
        ("a: [", "cannot be read"),
        ("3", "holds no suite"),
        ("suite: s\nkind: other\ntasks: []\n", "kind: "),
        (SUITE.replace("id: aye", "id: same").replace("id: nay", "id: same"), "two tasks are named same"),
        (SUITE.replace("id: aye", "id: a b"), "tasks.0.id"),
        (SUITE.replace("kind: functions", "kind: dialogue").replace("id: aye", "id: y").replace("id: nay", "id: n"),
         "task y has no user"),
        (SUITE.replace("suite: small", "suite: a/b"), "suite: 'a/b' stands in names of files"),
        (SUITE.replace("said: [aye]}", 'said: ["(aye"]}'), "tasks.0.expect.said.0: .*no regular expression"),
        (SUITE.replace("said: [aye]}", "functions: [{}]}"), "tasks.0.expect.functions.0: "),
        (SUITE.replace("    prompt: Say aye.", "    prompt: Say aye.\n    world: {files: {../../out: x}}"),
         "tasks.0.world.files.*does not name a file inside"),
        (SUITE.replace("    prompt: Say aye.", "    prompt: Say aye.\n    world: {tools: [{name: f, require: "
         "[{sql: SELECT 1, otherwise: 'no {what}'}]}]}"), "tool f has no argument 'what' to say"),
    ],
)  # fmt: skip
def test_suites_that_cannot_be(text, cause, tmp_path):
    path = tmp_path / "s.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SuiteFault, match=cause):
        load_suite(str(path))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("raise RuntimeError('boom')", r"s\.py cannot be run \(RuntimeError: boom\)"),
        ("x = (", r"s\.py cannot be run \(SyntaxError: "),
        ("raise SystemExit(0)", r"s\.py cannot be run \(SystemExit: 0\)"),
        ("SUITE = 3", "holds no suite"),
    ],
)
def test_a_python_suite_that_fails_is_told_in_one_line(text, cause, tmp_path):
    (tmp_path / "s.py").write_text(text)
    with pytest.raises(SuiteFault, match=cause):
        load_suite(str(tmp_path / "s.py"))


def test_what_cannot_be_tried_is_said_before_anything_is_written(kodkod, suite, tmp_path):
    out = tmp_path / "out"
    refused = kodkod("eval", suite, "-o", out, "--agent", "reference", "--task", "none")
    assert (refused.code, refused.out) == (2, "")
    assert (
        refused.err == "kodkod: no task has 'none' in its id; give a part of one by --task, or leave it out for all\n"
    )
    twice = kodkod("eval", suite, suite, "-o", out, "--agent", "reference")
    assert (twice.code, twice.err) == (2, "kodkod: two suites are named 'small'; name each once\n")
    assert not out.exists()
    (tmp_path / "file").touch()
    barred = kodkod("eval", suite, "-o", tmp_path / "file" / "out", "--agent", "reference")
    assert (barred.code, barred.err.count("\n")) == (2, 1)
    assert "cannot be made (Not a directory); choose another folder with -o" in barred.err


def test_a_task_that_was_changed_is_tried_anew(kodkod, suite, tmp_path):
    out = tmp_path / "out"
    words = ("eval", suite, "-o", out, "--agent", "reference")
    assert kodkod(*words).code == 0
    suite.write_text(SUITE.replace("[nay], not_said: [aye]", "[nope]"))
    changed = kodkod(*words)
    assert (changed.code, changed.err.splitlines()[0]) == (0, "2 recorded already, 1 left")
    assert "small/nay/1: failed: 'nope' was not said" in changed.err
    assert kodkod(*words).err == "2 recorded already, 0 left\n"


def test_a_setting_that_cannot_be_read_is_told_in_one_line(kodkod, suite, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "setting.json").write_text("[]")
    damaged = kodkod("eval", suite, "-o", tmp_path / "out", "--agent", "reference")
    assert (damaged.code, damaged.err.count("\n")) == (2, 1)
    assert "setting.json cannot be read (" in damaged.err


BROKEN = """\
suite: broken
kind: dialogue
world: {tools: [{name: f, python: "tool.py:f"}]}
tasks:
  - id: calls
    user: {opening: go}
    expect: {said: [done]}
    reference: [{calls: [{name: f}]}, {text: done}]
    wrong: [{text: "no"}]
  - id: talks
    user: {opening: go}
    expect: {said: [done]}
    reference: [{text: done}]
    wrong: [{text: "no"}]
"""


def test_a_tool_that_fails_ends_its_trial_alone_which_can_be_done_again(kodkod, tmp_path):
    out, tool = tmp_path / "out", tmp_path / "tool.py"
    (tmp_path / "s.yaml").write_text(BROKEN)
    tool.write_text("def f(database):\n    return 1 / 0\n")
    words = ("eval", tmp_path / "s.yaml", "-o", out, "--agent", "reference")
    first = kodkod(*words)
    assert first.code == 1
    assert "broken/calls/1: failed: ToolBroken: the tool f failed (ZeroDivisionError: division by zero)" in first.err
    assert "broken/talks/1: passed" in first.err
    tool.write_text("def f(database):\n    return 1\n")
    assert kodkod(*words).code == 1  # what is recorded is not done again
    again = kodkod(*words, "--redo-faults")
    assert (again.code, "1 of 1  broken/calls/1: passed" in again.err) == (0, True)


def test_checks_of_calls():
    def fails(checks, *names, by_user=()):
        made = [Made(name, {"n": number}, "") for number, name in enumerate(names)]
        made += [Made(name, {}, "", by_user=True) for name in by_user]
        return check_talk(Expectation.model_validate({"calls": checks}), Transcript(calls=made))

    a, b = {"name": "a"}, {"name": "b"}
    assert not fails({"in_order": [a, b]}, "a", "x", "b")
    assert fails({"in_order": [b, a]}, "a", "x", "b")
    assert not fails({"any_order": [b, a]}, "a", "b")
    assert fails({"any_order": [{"name": "a", "arguments": {"n": 1}}]}, "a", "b")
    assert not fails({"any_order": [{"name": "b", "arguments": {"n": 1}}]}, "a", "b")
    assert fails({"forbidden": [a]}, "a")
    assert not fails({"forbidden": [a]}, "b", by_user=["a"])
    assert fails({"none": True}, "a")
    assert fails({"most": 1}, "a", "b")
    assert fails({"by_user": [a]}, "a")
    assert not fails({"by_user": [a]}, by_user=["a"])


async def talk(turns, user, world=None, max_turns=6, user_turns=None):
    desk, transcript = Desk(world or World()), Transcript()
    model = scripted_model(turns, "scripted")
    dialogue = Dialogue.begin(model, [], "", SamplingParams(max_tokens=256), transcript, max_turns)
    other = scripted_model(user_turns, "user") if user_turns else None
    talker = ModelUser(user, desk._user_tools.values(), desk, transcript, other, 0) if other else ScriptedUser(
        user, desk, transcript
    )  # fmt: skip
    try:
        await dialogue.hold(talker, desk)
    finally:
        for one in (model, other):
            if one is not None:
                one.engine.close()
        desk.close()
    return transcript


async def test_a_scripted_user_follows_its_rules():
    user = User.model_validate(
        {
            "opening": "Hi.",
            "replies": [{"when": "name", "say": "Ada."}, {"when": "bye", "say": "", "ends": True}],
            "otherwise": "Hm.",
            "most": 4,
        }
    )
    found = await talk([RecordedTurn(text=text) for text in ("Your name?", "Your name?", "Well?", "bye")], user)
    assert [text for who, text in found.said if who == "user"] == ["Hi.", "Ada.", "Hm.", "Hm."]
    assert found.exit_status == "ended"
    ever = await talk([RecordedTurn(text="Go on.")] * 9, user.model_copy(update={"most": 99}), max_turns=3)
    assert (ever.turns, ever.exit_status) == (3, "turn limit")


async def test_a_model_in_the_users_place_has_its_own_tools():
    world = World.model_validate(
        {
            "database": {"tables": "CREATE TABLE lamp (lit TEXT);", "rows": {"lamp": [["off"]]}},
            "user_tools": [{"name": "press", "do": ["UPDATE lamp SET lit = 'on'"], "give": "SELECT lit FROM lamp"}],
        }
    )
    user_turns = [
        RecordedTurn(calls=(RecordedCall(name="press"),)),
        RecordedTurn(text="It is lit."),
        RecordedTurn(text="Thanks. ###STOP###"),
    ]
    found = await talk(
        [RecordedTurn(text="Press the button."), RecordedTurn(text="Fine.")],
        User(opening="It is dark."), world, user_turns=user_turns,
    )  # fmt: skip
    assert [text for who, text in found.said if who == "user"] == ["It is dark.", "It is lit."]
    assert [(call.name, call.by_user, json.loads(call.result)) for call in found.calls] == [
        ("press", True, {"lit": "on"})
    ]


def test_a_report_of_what_a_model_wrote_is_well_formed(tmp_path):
    odd = Trial(
        suite="s", task="t", category="", number=1, seed=0, passed=False, reasons=("\x00\x1b[2J <&> ]]> \ufffe",)
    )  # fmt: skip
    fault = odd.model_copy(update={"number": 2, "is_fault": True, "exit_status": "SandboxLost"})
    junit([odd, fault]).write(tmp_path / "junit.xml", encoding="utf-8", xml_declaration=True)
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (root[0].get("failures"), root[0].get("errors")) == ("1", "1")
    assert "<&> ]]>" in (root[0][0][0].text or "")
    assert summary([odd, fault], {"agent": "x"})["faults"] == 1
