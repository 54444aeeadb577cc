"""Figures of runs, worked out by hand, and their three forms."""

from __future__ import annotations

import json
import resource
import signal

import pytest

from kodkod_app.swebench.folder import Asked, FolderFault, claim
from kodkod_app.swebench.predictions import write_predictions
from kodkod_app.swebench.records import Attempt, Attempts
from kodkod_app.swebench.report import told, write_report
from kodkod_app.swebench.verdicts import Outcome, Place, Verdict, Verdicts, patch_sha256

NAMES = tuple(f"a__b-{number}" for number in range(1, 5))


def asked(**changed):
    plain = {
        "dataset": "d.jsonl", "dataset_sha256": "0" * 64, "instances": NAMES, "model": "m", "name": "kodkod-m",
        "max_turns": 10, "max_tokens": 100, "timeout_s": 60.0, "sandbox": "none", "workers": 4, "device": "cpu",
        "version": "0",
    }  # fmt: skip
    return Asked(**{**plain, **changed})


def attempt(name, run, **changed):
    plain = {
        "instance_id": name, "run": run, "seed": run, "model_patch": "diff", "exit_status": "Submitted", "reason": "",
        "turns": 3, "calls": 4, "prompt_tokens": 100, "reused_tokens": 60, "generated_tokens": 10, "seconds": 2.0,
        "busy_s": 0.5,
    }  # fmt: skip
    return Attempt(**{**plain, **changed})


def make(folder, resolved, *, device="cpu", **changed):
    """A folder whose run r resolved the instances `resolved[r - 1]`."""
    claim(folder, asked(**changed))
    attempts, verdicts = Attempts(folder), Verdicts(folder)
    for run, names in enumerate(resolved, 1):
        for name in NAMES[:-1]:
            attempts.add(attempt(name, run, device=device))
            outcome = Outcome.RESOLVED if name[-1] in names else Outcome.UNRESOLVED
            verdicts.add(
                Verdict(instance_id=name, source=f"run-{run}", place=Place.FOLDERS, outcome=outcome, harness="5.0.2")
            )
    return folder


def test_figures_of_three_runs(tmp_path):
    found = write_report(make(tmp_path / "a", ["12", "1", "13"], device="cuda"))
    shares = [share["count"] for share in found["resolved_by_run"].values()]
    assert (shares, found["resolved_by_run"]["1"]["total"]) == ([2, 1, 2], 4), "what is missing counts as not resolved"
    assert found["resolved_mean"] == {"runs": 3, "mean": pytest.approx(5 / 12), "deviation": pytest.approx(0.1443376)}
    # Successes of three: 3, 1, 1, 0.
    assert [entry["pass_at_k"] for entry in found["by_k"]] == pytest.approx([5 / 12, (1 + 2 * 2 / 3) / 4, 3 / 4])
    assert [entry["pass_hat_k"] for entry in found["by_k"]] == pytest.approx([5 / 12, 1 / 4, 1 / 4])
    assert found["outcomes"]["not graded"] == 3
    assert found["cost"]["reused_share"] == pytest.approx(0.6)
    assert (found["cost"]["engine_seconds"], found["cost"]["gpu_seconds"]) == (4.5, 4.5)
    assert found["by_instance"]["a__b-4"]["exit_statuses"] == ["missing"] * 3
    text = (tmp_path / "a" / "report.md").read_text()
    assert text == told(found)
    assert "| run 1 | 50.0 % (2 of 4; 15.0 to 85.0) |" in text
    assert "**3 predictions are not graded**" in text
    assert "4 GPU seconds" in text
    assert json.loads((tmp_path / "a" / "report.json").read_text()) == found
    assert (tmp_path / "a" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_verdict_on_another_patch_does_not_count(tmp_path):
    folder = make(tmp_path / "a", [""])
    graded = Verdict(
        instance_id=NAMES[0], source="run-1", place=Place.DOCKER, outcome=Outcome.RESOLVED, harness="5.0.2",
        patch_sha256=patch_sha256("diff"),
    )  # fmt: skip
    Verdicts(folder).add(graded)
    assert write_report(folder)["resolved_by_run"]["1"]["count"] == 1
    Attempts(folder).add(attempt(NAMES[0], 1, model_patch="made again"))
    again = write_report(folder)
    assert again["resolved_by_run"]["1"]["count"] == 0
    Verdicts(folder).add(graded.model_copy(update={"place": Place.FOLDERS, "patch_sha256": patch_sha256("made again")}))
    found = write_report(folder)
    assert found["resolved_by_run"]["1"]["count"] == 1, "the one that is on it, wherever it was made"
    assert found["places_disagree_on"] == []


def test_two_runs_are_paired(tmp_path):
    first, second = make(tmp_path / "a", ["123"]), make(tmp_path / "b", ["3"], name="kodkod-n")
    found = write_report(first, second)["compared"]
    assert [found[key] for key in ("both", "neither", "only_first", "only_second")] == [1, 1, 2, 0]
    assert found["p_value"] == 0.5
    text = (first / "report.md").read_text()
    assert "## kodkod-m against kodkod-n, on the 4 instances both were given" in text
    assert "p = 0.5000" in text


def test_docker_is_believed_and_disagreement_is_told(tmp_path):
    folder = make(tmp_path / "a", ["1"])
    verdict = Verdict(
        instance_id="a__b-1", source="run-1", place=Place.DOCKER, outcome=Outcome.UNRESOLVED, harness="5.0.2",
        infra_failure=True,
    )  # fmt: skip
    Verdicts(folder).add(verdict)
    found = write_report(folder)
    assert found["resolved_by_run"]["1"]["count"] == 0
    assert found["places_disagree_on"] == ["run-1/a__b-1"]
    assert found["outcomes"]["with likely infrastructure failures"] == 1
    assert "the verdicts differ** on run-1/a__b-1" in told(found)


def test_a_folder_is_of_one_run(tmp_path):
    claim(tmp_path, asked())
    claim(tmp_path, asked(workers=8, dataset="moved.jsonl"))
    with pytest.raises(FolderFault, match="another model and seed"):
        claim(tmp_path, asked(model="n", seed=1))
    with pytest.raises(FolderFault, match="is no folder of"):
        write_report(tmp_path.parent)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(FolderFault, match="cannot be read"):
        write_report(tmp_path)


def test_a_full_disk_leaves_a_folder_a_runs(tmp_path):
    claim(tmp_path, asked())
    before = (tmp_path / "run.json").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            claim(tmp_path, asked(workers=8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "run.json").read_bytes() == before


def test_predictions_are_ascii_and_whole(tmp_path):
    attempts = [attempt("a__b-1", 1, model_patch="+\u2028 \u00fc\n"), attempt("a__b-1", 2, model_patch="")]
    for run in (1, 2):
        write_predictions(attempts, tmp_path, run, "m")
    text = (tmp_path / "preds.jsonl").read_text(encoding="ascii")
    assert json.loads(text)["model_patch"] == "+\u2028 \u00fc\n"
    assert json.loads((tmp_path / "preds.run-2.json").read_text())["a__b-1"]["model_patch"] == ""
