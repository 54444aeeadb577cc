"""`kodkod swebench` by the command: a recorded model, real files, git and tests; killed and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from kodkod_app.swebench.work_tree import WorkTreeFault, apply_patch, make_single_commit
from kodkod_sandbox import landlock
from reachable import let_others_in

from ..conftest import FINISH, LOOK, MEND, git, shell
from .conftest import CALC, PATCH


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def first_turn(trajectory):
    events = (entry["event"] for entry in lines(trajectory))
    return next(event["usage"] for event in events if event["kind"] == "assistant_turn")


def test_predictions_trajectories_and_statuses(kodkod, record, dataset, on_clones, tmp_path):
    out = tmp_path / "out"
    ended = kodkod(
        "swebench", dataset, "-o", out, "-m", record(LOOK, MEND, FINISH), "--slice", ":2", "--runs", "2", "--seed", "7",
        "--workers", "2", *on_clones,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "Submitted  4" in ended.out
    assert "4 of 4" in ended.err
    assert "left" in ended.err
    records = lines(out / "records.jsonl")
    assert sorted((one["instance_id"], one["run"], one["seed"]) for one in records) == [
        ("local__calc-1", 1, 7), ("local__calc-1", 2, 8), ("local__calc-2", 1, 7), ("local__calc-2", 2, 8),
    ]  # fmt: skip
    assert all(one["turns"] == 3 and one["generated_tokens"] > 0 and one["seconds"] > 0 for one in records)
    for suffix in ("", ".run-2"):
        predictions = lines(out / f"preds{suffix}.jsonl")
        assert {one["instance_id"] for one in predictions} == {"local__calc-1", "local__calc-2"}
        assert all("+    return a + b" in one["model_patch"] for one in predictions)
        by_id = json.loads((out / f"preds{suffix}.json").read_text())
        assert list(by_id.values()) == predictions
    kept = out / "trajectories" / "local__calc-1.run-1"
    assert json.loads(next(kept.glob("*.atif.json")).read_text())["schema_version"] == "ATIF-v1.8"
    assert len(lines(next(kept.glob("*.jsonl")))) > 5
    assert list((out / "work").iterdir()) == []
    # One engine, one store of prefixes: an attempt begins with what others computed (the declared tools).
    assert sum(first_turn(path)["reused_tokens"] > 500 for path in (out / "trajectories").glob("*/*.jsonl")) >= 2
    # The same again does nothing; with --redo all of it.
    before = (out / "records.jsonl").read_bytes()
    same = [
        "swebench",
        dataset,
        "-o",
        out,
        "-m",
        record(LOOK, MEND, FINISH),
        "--slice",
        ":2",
        "--seed",
        "7",
        *on_clones,
    ]
    again = kodkod(*same)
    assert (again.code, (out / "records.jsonl").read_bytes()) == (0, before)
    assert "2 attempts are recorded already, 0 are left" in again.err
    assert kodkod(*same, "--redo", "--instance", "local__calc-1").code == 2, "another selection is another run"
    assert kodkod(*same, "--redo").code == 0
    assert len(lines(out / "records.jsonl")) == 6


@pytest.mark.skipif(landlock.missing() is not None, reason=str(landlock.missing()))
def test_the_agent_sees_one_commit_and_no_fix(kodkod, record, dataset, on_clones, tmp_path):
    let_others_in(tmp_path)  # a box's user may be another than root
    out = tmp_path / "out"
    look = shell("git log --oneline | wc -l; git grep -c 'a + b' $(git rev-list --all) -- calc.py; git remote -v")
    kodkod("swebench", dataset, "-o", out, "-m", record(look, FINISH), "--slice", ":1", *on_clones[:-1], "landlock")
    trajectory = next((out / "trajectories").glob("*/*.jsonl")).read_text()
    told = next(
        entry["event"]["for_model"]
        for entry in map(json.loads, trajectory.splitlines())
        if entry["event"]["kind"] == "call_finished"
    )
    assert told.split()[0] == "1", told
    assert "calc.py" not in told
    assert "fix" not in told


def test_an_instance_with_nothing_to_stand_on_is_recorded_and_redone(kodkod, record, dataset, on_clones, tmp_path):
    out, model = tmp_path / "out", record(MEND, FINISH)
    ended = kodkod("swebench", dataset, "-o", out, "-m", model, "--slice", ":2", "--sandbox", "none")
    assert ended.code == 1
    assert "EnvironmentMissing" in ended.out
    assert "has no image sweb.eval.x86_64.local__calc-1:latest" in ended.err
    assert {one["model_patch"] for one in lines(out / "preds.jsonl")} == {""}
    again = kodkod("swebench", dataset, "-o", out, "-m", model, "--slice", ":2", "--redo-faults", *on_clones)
    assert again.code == 0, again.err
    assert again.out.split() == ["Submitted", "2"]


def test_folders_deeper_than_python_calls_do_not_end_it(kodkod, record, dataset, on_clones, tmp_path):
    out, dig = tmp_path / "out", shell("for level in $(seq 1200); do mkdir d && cd d; done")
    try:
        ended = kodkod("swebench", dataset, "-o", out, "-m", record(MEND, dig, FINISH), "--slice", ":2", *on_clones)
        assert ended.code == 0, ended.err
        assert ended.out.split() == ["Submitted", "2"]
        assert list((out / "work").iterdir()) == []
    finally:
        subprocess.run(["rm", "-rf", str(out)], check=True)  # what pytest removes folders with cannot


def test_bad_usage(kodkod, record, dataset, tmp_path):
    model = record(FINISH)
    assert kodkod("swebench", tmp_path / "none.jsonl", "-o", tmp_path / "o", "-m", model).code == 2
    assert kodkod("swebench", dataset, "-o", tmp_path / "o", "-m", tmp_path / "none").code == 4
    assert kodkod("swebench", "report", tmp_path).code == 2
    assert "kodkod swebench DATASET -o DIR" in " ".join(kodkod("swebench", "--help").out.split())


def is_in_the_middle(out):
    """Something is recorded, and an attempt that is not has had a turn."""
    records = (out / "records.jsonl").read_text() if (out / "records.jsonl").exists() else ""
    begun = [
        path for path in (out / "work").glob("*/sessions/*/trajectory.jsonl") if "assistant_turn" in path.read_text()
    ]
    return "\n" in records and any(path.parents[2].name.partition(".run")[0] not in records for path in begun)


@pytest.mark.parametrize(
    ("instances", "workers"), [(3, 1), pytest.param(8, 4, marks=pytest.mark.slow, id="four workers")]
)
def test_killed_and_gone_on_with(instances, workers, record, dataset, on_clones, tmp_path, home):
    """`kill -9` in the middle: what is recorded stays as it is, what was begun is gone on with, nothing is lost."""
    out = tmp_path / "out"
    model = record(LOOK, MEND, FINISH)
    command = [
        sys.executable, "-m", "kodkod_app", "swebench", str(dataset), "-o", str(out), "-m", model,
        "--slice", f":{instances}", "--workers", str(workers), *on_clones,
    ]  # fmt: skip
    environment = {**os.environ, "KODKOD_HOME": str(home)}
    records = out / "records.jsonl"
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 200
        while not is_in_the_middle(out):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    before = records.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    assert before.count(b"\n") < instances
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert records.read_bytes().startswith(before)
    found = lines(records)
    assert sorted(one["instance_id"] for one in found) == [f"local__calc-{number + 1}" for number in range(instances)]
    assert all("+    return a + b" in one["model_patch"] and one["exit_status"] == "Submitted" for one in found)
    assert any(one["resumed"] for one in found), "an attempt that was begun went on"
    assert len(lines(out / "preds.jsonl")) == instances
    assert list((out / "work").iterdir()) == []


def test_one_commit_whatever_was_there(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    git(tree, "init", "-q", "-b", "main")
    (tree / ".gitignore").write_text("*.so\n")
    (tree / "kept.so").write_text("tracked though ignored")
    (tree / "calc.py").write_text(CALC)
    git(tree, "add", "-f", ".")
    git(tree, "commit", "-q", "-m", "one")
    (tree / "built.so").write_text("a product")
    first = make_single_commit(tree)
    assert git(tree, "ls-files").split() == [".gitignore", "calc.py", "kept.so"]
    assert git(tree, "status", "--porcelain") == ""
    assert make_single_commit(tree) == first, "the same files make the same commit"
    apply_patch(tree, PATCH)
    assert "+    return a + b" in git(tree, "diff", "HEAD")
    with pytest.raises(WorkTreeFault, match="git apply"):
        apply_patch(tree, PATCH)
    apply_patch(tree, PATCH, reverse=True)
    assert (tree / "calc.py").read_text() == CALC
