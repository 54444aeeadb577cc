"""The evaluation on a small package of our own: real faults, real tests, the real agent, a scripted model."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from random import Random

import pytest

from kodkod_agent.config import CandidatesConfig
from kodkod_app.bootstrap import Model
from kodkod_app.nano.broken import broken_instances
from kodkod_app.nano.packages import Package, PackageSpec, Role
from kodkod_app.nano.spans import Edit, applied
from kodkod_app.nano.workshop import prepare
from kodkod_app.offline import CONTEXT_TOKENS, open_scripted, open_tokenizer
from kodkod_app.repair_eval import agent_run, broken_tree, evaluation
from kodkod_app.repair_eval.broken_tree import open_broken_tree
from kodkod_app.repair_eval.controls import blind_search, mends, no_change
from kodkod_app.repair_eval.evaluation import Evaluation, EvaluationOptions
from kodkod_app.repair_eval.records import Records
from kodkod_app.settings import Settings
from kodkod_engine.chat.template import assistant_pieces, encode_pieces
from kodkod_engine.messages import AssistantMessage, ToolCall
from kodkod_sandbox.choose import SandboxKind

TOKENIZER = open_tokenizer("")
CODE = '''"""Clamping."""


def clamp(value, low, high):
    if value < low:
        return low
    if value > high:
        return high
    return value
'''
TESTS = """from clamping import clamp


def test_low():
    assert clamp(-1, 0, 10) == 0


def test_high():
    assert clamp(11, 0, 10) == 10


def test_between():
    assert clamp(5, 0, 10) == 5
"""
WRONG_TEST = """

def test_that_fails_anyway():
    assert clamp(5, 0, 10) == 6
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clamping")
    tree = folder / "tree"
    tree.mkdir()
    (tree / "clamping.py").write_text(CODE)
    (tree / "test_clamping.py").write_text(TESTS + WRONG_TEST)
    spec = PackageSpec(
        name="clamping", version="1.0", sha256="0" * 64, licence="MIT", role=Role.HELD_OUT, tests=("test_clamping.py",)
    )
    with prepare(Package(spec, folder, tree)) as ready:
        yield ready


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Copies are made below; tests run in this process's own environment."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for module in (agent_run, broken_tree):
        monkeypatch.setattr(module, "environment", lambda _package: Path(sys.prefix))


def planted(workshop, count, seed=1):
    """As the evaluation plants them."""
    return list(broken_instances(workshop, Random(f"{seed} {workshop.package.spec.pinned}"), count))


def test_what_counts_as_mended(workshop):
    instance = planted(workshop, 1)[0]
    assert not mends(workshop, instance, {})
    assert mends(workshop, instance, {"clamping.py": CODE}), "a test that fails without the fault does not count"
    assert not mends(workshop, instance, {"clamping.py": "def clamp(:\n"})
    assert not mends(workshop, instance, {"clamping.py": CODE, "test_clamping.py": "x = 1\n"}), "no tests, no proof"


def test_controls(workshop):
    instance = planted(workshop, 1)[0]
    assert instance.failing_tests
    assert not no_change(workshop, instance).resolved
    other = Edit(4, "clamp", "clip")
    found = blind_search(workshop, instance, [("clamping.py", other)] * 3, 2, "seed")
    assert (found.resolved, found.tried_edits, found.edits) == (False, 2, 3)
    repair = ("clamping.py", instance.fault.repair)
    found = blind_search(workshop, instance, [repair], 8, "seed")
    assert (found.resolved, found.tried_edits, found.edits) == (True, 1, 1)


def test_a_bench_is_a_repository_with_the_fault_committed(workshop):
    instance = planted(workshop, 1)[0]
    with open_broken_tree(workshop.package, instance) as opened:
        assert opened.changes() == {}
        assert (opened.tree / "clamping.py").read_text() == instance.broken
        (opened.tree / "clamping.py").write_text(CODE)
        assert opened.changes() == {"clamping.py": CODE}
        assert applied(instance.broken, instance.fault.repair) == CODE


def turn(name, **arguments):
    message = AssistantMessage(calls=(ToolCall(id="", name=name, arguments=arguments),))
    return [*encode_pieces(TOKENIZER, assistant_pieces(message)), TOKENIZER.eos_id]


def knowing(instances, wrong_first):
    """A model that knows the way back from each fault; of some, only with its second candidate."""
    asked = dict.fromkeys(range(len(instances)), 0)

    def answer(prompt_ids):
        text = TOKENIZER.decode(list(prompt_ids))
        number = next(n for n, one in enumerate(instances) if all(name in text for name in one.failing_tests))
        if prompt_ids.count(TOKENIZER.special.assistant_id) > 1:
            return turn("finish", summary="done")
        asked[number] += 1
        broken = instances[number].broken
        sound = broken + "\n# wrong\n" if number in wrong_first and asked[number] == 1 else CODE
        return turn("write", path="clamping.py", content=sound)

    return answer


async def test_the_whole_of_it(workshop, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "release", lambda _pinned: workshop.package)
    instances = planted(workshop, 2)
    assert len({one.failing_tests for one in instances}) == 2, "the scripted model tells them apart by these"
    settings = Settings(
        sandbox=SandboxKind.NONE, candidates=CandidatesConfig(count=2, at_once=1), agent={"max_verifications": 1}
    )
    options = EvaluationOptions(("clamping==1.0",), 2, 1, 1, settings, tmp_path)
    records, lines = Records(tmp_path / "records.jsonl"), []
    engine = open_scripted(knowing(instances, {1}), TOKENIZER, CONTEXT_TOKENS)
    try:
        await Evaluation(options, Model("scripted", engine, TOKENIZER), records, lines.append).run()
        by_key = {record.fault.key: record.agent for record in records}
        first, second = (by_key[f"clamping==1.0/1/{number}"] for number in range(2))
        assert (first.resolved, first.resolved_first, first.candidates, first.winner) == (True, True, 1, None)
        assert (second.resolved, second.resolved_first, second.candidates, second.winner) == (True, False, 2, 2)
        assert all(one.ended_by_itself and one.malformed_calls == 0 and one.calls >= 2 for one in (first, second))
        assert not any(record.no_change.resolved for record in records)
        assert all(0 < record.blind.tried_edits <= 2 < record.blind.edits for record in records)
        assert any("2 of 2  clamping" in line for line in lines)
        kept = list((tmp_path / "trajectories").glob("*/*.jsonl"))
        assert len(kept) == 3
        assert list((tmp_path / "temporary").glob("kodkod-copies-*/*")) == []
        # What is done is not done again.
        before = (tmp_path / "records.jsonl").read_bytes()
        again = Evaluation(options, Model("none", engine, TOKENIZER), Records(tmp_path / "records.jsonl"), lines.append)
        engine.close()
        await asyncio.wait_for(again.run(), 120)
        assert (tmp_path / "records.jsonl").read_bytes() == before
    finally:
        engine.close()


def test_a_fault_ends_it_in_one_line(kodkod, record, tmp_path):
    words = ("-o", tmp_path / "out", "-m", record({"text": "hi"}), "--faults", 2)
    found = kodkod("eval", "repair", *words, "--package", "one", "--package", "two")
    assert (found.code, found.out) == (1, "")
    assert found.err.splitlines()[-1] == "kodkod: 'one' names no release; write it as NAME==VERSION"
    assert "Traceback" not in found.err


@pytest.mark.parametrize("other", [("--seed", 1), ("--candidates", 2), ("-m",)])
def test_faults_tried_with_another_question_are_not_counted_with_these(other, kodkod, record, tmp_path):
    words = ("eval", "repair", "-o", tmp_path / "out", "--faults", 1, "--package", "one")
    assert kodkod(*words, "-m", record({"text": "hi"})).code == 1
    (tmp_path / "other.jsonl").write_text('{"text": "ho"}\n')
    changed = other if other != ("-m",) else ("-m", f"script:{tmp_path / 'other.jsonl'}")
    found = kodkod(*words, *(("-m", record({"text": "hi"})) if other != ("-m",) else ()), *changed)
    assert (found.code, found.out) == (2, "")
    assert "out holds faults tried with another" in found.err
