"""The evaluation on a small package of our own: real faults, real tests, the real agent, a scripted model."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from kodkod_agent.config import CandidatesConfig
from kodkod_app.bootstrap import Model
from kodkod_app.nano.spans import applied
from kodkod_app.offline import CONTEXT_TOKENS, open_scripted, open_tokenizer
from kodkod_app.repair_eval import evaluation
from kodkod_app.repair_eval.bench import Outcome, commit_all, open_bench
from kodkod_app.repair_eval.controls import blind_search, no_change
from kodkod_app.repair_eval.evaluation import Evaluation, EvaluationOptions
from kodkod_app.repair_eval.instances import measure, plant_faults
from kodkod_app.repair_eval.packages import Package, PackageSpec
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


@pytest.fixture
def package(tmp_path):
    tree = tmp_path / "published"
    tree.mkdir()
    (tree / "clamping.py").write_text(CODE)
    (tree / "test_clamping.py").write_text(TESTS)
    return Package(PackageSpec(name="clamping", version="1.0"), tree, Path(sys.prefix), ("clamping.py",))


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Copies are made below."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))


async def planted(package, seed, count):
    async with open_bench(package, SandboxKind.NONE) as bench:
        baseline = await measure(bench)
        assert baseline is not None
        assert baseline.lines_of["clamping.py"] == {5, 6, 7, 8, 9}
        found = [instance async for instance in plant_faults(bench, baseline, seed, count)]
        assert bench.read("clamping.py") == CODE
        return found


def test_the_criterion():
    failing, before = ("a",), frozenset({"old"})
    assert Outcome(frozenset({"old"}), 3, True).mends(failing, before)
    assert not Outcome(frozenset({"a"}), 3, True).mends(failing, before)
    assert not Outcome(frozenset({"new"}), 3, True).mends(failing, before)
    assert not Outcome(frozenset(), 0, True).mends(failing, before)
    assert not Outcome(frozenset(), 3, False).mends(failing, before)
    assert not Outcome(frozenset({"a"}), 3, True).mends(failing, frozenset({"a"}))


async def test_faults_and_controls(package):
    first = await planted(package, 1, 2)
    assert [one.fault for one in await planted(package, 1, 1)] == [first[0].fault]
    for instance in first:
        assert instance.fault.failing_tests
        assert set(instance.fault.failing_tests) <= instance.failed
        assert instance.fault.line in instance.covered["clamping.py"]
    instance = first[0]
    async with open_bench(package, SandboxKind.NONE) as bench:
        bench.write("clamping.py", instance.broken)
        assert not (await no_change(bench, instance)).resolved
        found = await blind_search(bench, instance, 1, 0)
        assert (found.tried_edits, found.edits > 1) == (1, True)
        assert bench.read("clamping.py") == instance.broken
        bench.write("clamping.py", CODE)
        assert (await bench.run(("test_clamping.py",))).mends(instance.fault.failing_tests, frozenset())


def turn(name, **arguments):
    message = AssistantMessage(calls=(ToolCall(id="", name=name, arguments=arguments),))
    return [*encode_pieces(TOKENIZER, assistant_pieces(message)), TOKENIZER.eos_id]


def knowing(instances, wrong_first):
    """A model that knows the way back from each fault; of some, only with its second candidate."""
    asked = dict.fromkeys(range(len(instances)), 0)

    def answer(prompt_ids):
        text = TOKENIZER.decode(list(prompt_ids))
        number = next(n for n, one in enumerate(instances) if all(name in text for name in one.fault.failing_tests))
        if prompt_ids.count(TOKENIZER.special.assistant_id) > 1:
            return turn("finish", summary="done")
        asked[number] += 1
        broken = instances[number].broken
        sound = broken + "\n# wrong\n" if number in wrong_first and asked[number] == 1 else CODE
        return turn("write", path="clamping.py", content=sound)

    return answer


async def test_the_whole_of_it(package, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "make_ready", lambda _spec: package)
    instances = await planted(package, 1, 2)
    assert len({one.fault.failing_tests for one in instances}) == 2, "the scripted model tells them apart by these"
    settings = Settings(
        sandbox=SandboxKind.NONE, candidates=CandidatesConfig(count=2, at_once=1), agent={"max_verifications": 1}
    )
    options = EvaluationOptions((package.spec,), 2, 1, 1, settings, tmp_path)
    records, lines = Records(tmp_path / "records.jsonl"), []
    engine = open_scripted(knowing(instances, {1}), TOKENIZER, CONTEXT_TOKENS)
    try:
        await Evaluation(options, Model("scripted", engine, TOKENIZER), records, lines.append).run()
        by_key = {record.fault.key: record.agent for record in records}
        first, second = (by_key[one.fault.key] for one in instances)
        assert (first.resolved, first.resolved_first, first.candidates, first.winner) == (True, True, 1, None)
        assert (second.resolved, second.resolved_first, second.candidates, second.winner) == (True, False, 2, 2)
        assert all(one.ended_by_itself and one.malformed_calls == 0 and one.calls >= 2 for one in (first, second))
        assert not any(record.no_change.resolved for record in records)
        assert all(record.blind.tried_edits <= 2 for record in records)
        assert "2 of 2" in lines[-2] + lines[-1]
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


async def test_a_tree_becomes_a_repository(package, tmp_path):
    commit_all(package.tree)
    fault = (await planted(package, 1, 1))[0].fault
    assert applied(CODE, _edit(fault)) != CODE


def _edit(fault):
    from kodkod_app.nano.spans import Edit

    return Edit(fault.line, fault.old, fault.new)
