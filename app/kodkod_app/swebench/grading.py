"""Grading predictions: the official package reads the logs, wherever the tests were run.

grading/dataset.jsonl                                        the rows, as the package reads them
grading/logs/run_evaluation/RUN_ID/MODEL/INSTANCE/           its logs and report.json
grading/MODEL.RUN_ID.json                                    its summary
verdicts.jsonl                                               what `kodkod swebench report` counts
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from kodkod_app.output_folder import make_output
from kodkod_app.statistics import Share
from kodkod_app.swebench.folder_grading import grade_in_folders, without_docker
from kodkod_app.swebench.grounds import Grounds
from kodkod_app.swebench.instance_images import build_missing
from kodkod_app.swebench.predictions import (
    EMPTY,
    GOLD,
    control_predictions,
    file_names,
    read_predictions,
)
from kodkod_app.swebench.records import Attempts
from kodkod_app.swebench.rows import DatasetFault, Row, write_rows
from kodkod_app.swebench.verdicts import Outcome, Place, Verdict, Verdicts, failed_tests, patch_sha256, read_report
from kodkod_sandbox.image_files import has_image

Tell = Callable[[str], None]
Predictions = Mapping[str, Mapping[str, Any]]


class GraderFault(Exception):
    """The official package is not there, or could not do it."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class GradePlan:
    """What is wanted."""

    rows: Sequence[Row]
    folder: Path
    grounds: Grounds
    workers: int
    timeout_s: int
    docker: bool | None
    """None: where a daemon has the images of all that is to be graded."""

    @property
    def work(self) -> Path:
        """Of the official package."""
        return self.folder / "grading"


def grade_all(plan: GradePlan, predictions: str, tell: Tell) -> list[str]:
    """Grade each of the sources `predictions` names; one line on each.

    Raises:
        DatasetFault: rows or predictions cannot be graded.
        GraderFault: the official package is not installed, or failed.
    """
    harness = _harness()
    if ungraded := [row.instance_id for row in plan.rows if not row.can_be_graded]:
        raise DatasetFault(
            f"{len(ungraded)} rows have no eval_script, log_parser and eval_type ({ungraded[0]}, ...): give the data "
            "set in the form of version 5, which says how each is graded"
        )
    make_output(plan.work)
    verdicts = Verdicts(plan.folder)
    return [_grade(plan, source, found, harness, verdicts, tell) for source, found in _sources(predictions, plan.rows)]


def _harness() -> str:
    try:
        return metadata.version("swebench")
    except metadata.PackageNotFoundError as fault:
        raise GraderFault("the official grader is not installed: pip install 'kodkod[swebench]'") from fault


def _sources(text: str, rows: Sequence[Row]) -> list[tuple[str, Predictions]]:
    if text in (GOLD, EMPTY):
        return [(text, control_predictions(text, rows))]
    path = Path(text)
    if path.is_dir():
        runs = Attempts(path).runs
        if not runs:
            raise DatasetFault(f"{path} holds no attempts; name the folder of `kodkod swebench DATASET -o DIR`")
        return [(f"run-{run}", read_predictions(path / file_names(run)[0])) for run in runs]
    numbered = re.search(r"\.run-(\d+)\.", path.name)
    return [(f"run-{numbered[1] if numbered else 1}", read_predictions(path))]


def _grade(plan: GradePlan, source: str, predictions: Predictions, harness: str, verdicts: Verdicts, tell: Tell) -> str:
    rows = [row for row in plan.rows if row.instance_id in predictions]
    if unknown := sorted(set(predictions) - {row.instance_id for row in rows}):
        raise DatasetFault(f"the data set has no instance {', '.join(unknown[:3])} of the predictions; give its own")
    filled = [row for row in rows if predictions[row.instance_id]["model_patch"]]
    place = _place(plan, filled, tell)
    run_id = f"{source}-{place}-{_hash(predictions)}"
    tell(f"{source}: {len(filled)} patches, {len(rows) - len(filled)} empty; tests run in {place}")
    write_rows([row.for_grader() for row in rows], plan.work / "dataset.jsonl")
    (plan.work / f"{run_id}.preds.json").write_text(json.dumps(predictions), encoding="ascii")
    if place is Place.DOCKER:
        _in_docker(plan, run_id, tell)
    else:
        apart = replace(plan.grounds, kind=without_docker(plan.grounds.kind))
        asyncio.run(grade_in_folders(filled, predictions, apart, plan.work, run_id, plan.workers, plan.timeout_s, tell))
        _summarise(plan.work, run_id)
    for row in rows:
        verdicts.add(_verdict(plan, row, predictions[row.instance_id], source, place, run_id, harness))
    found = [verdict for verdict in verdicts if verdict.source == source and verdict.place is place]
    share = Share(sum(one.is_resolved for one in found), len(found))
    return f"{source} ({place}, swebench {harness}): {share}"


def _hash(predictions: Predictions) -> str:
    """The package passes over what it has graded under a name: other patches need another."""
    return hashlib.sha256(json.dumps(predictions, sort_keys=True).encode()).hexdigest()[:8]


def _place(plan: GradePlan, rows: Sequence[Row], tell: Tell) -> Place:
    if plan.docker is False:
        return Place.FOLDERS
    if plan.docker:
        build_missing([row for row in rows if row.sdist], plan.grounds, tell)
        return Place.DOCKER
    has_all = all(row.image is not None and has_image(row.image) for row in rows)
    return Place.DOCKER if rows and has_all else Place.FOLDERS


def _in_docker(plan: GradePlan, run_id: str, tell: Tell) -> None:
    command = [
        sys.executable, "-m", "swebench.harness.run_evaluation",
        "--dataset_name", "dataset.jsonl", "--predictions_path", f"{run_id}.preds.json", "--run_id", run_id,
        "--max_workers", str(plan.workers), "--timeout", str(plan.timeout_s), "--report_dir", ".",
    ]  # fmt: skip
    log = plan.work / f"{run_id}.log"
    with log.open("wb") as file:
        done = subprocess.run(
            command, cwd=plan.work, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=file, stderr=file, check=False
        )
    if done.returncode:
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["nothing"])[-1]
        raise GraderFault(f"the official grader ended with {done.returncode}: {last}; all it said is in {log}")
    tell(f"the official grader is done; what it said is in {log}")


def _summarise(work: Path, run_id: str) -> None:
    """The official summary, by the official function, which writes below the current folder."""
    script = (
        "import json, sys\n"
        "from swebench.harness.reporting import make_run_report\n"
        "predictions = json.load(open(sys.argv[1]))\n"
        "rows = [json.loads(line) for line in open('dataset.jsonl')]\n"
        "make_run_report(predictions, rows, sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, f"{run_id}.preds.json", run_id],
        cwd=work, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise GraderFault(f"the official summary failed: {(done.stderr.strip().splitlines() or ['nothing'])[-1]}")


def _verdict(
    plan: GradePlan, row: Row, prediction: Mapping[str, Any], source: str, place: Place, run_id: str, harness: str
) -> Verdict:
    common: dict[str, Any] = {
        "instance_id": row.instance_id, "source": source, "place": place, "harness": harness,
        "patch_sha256": patch_sha256(prediction["model_patch"]),
    }  # fmt: skip
    if not prediction["model_patch"]:
        return Verdict(outcome=Outcome.EMPTY, **common)
    model = str(prediction["model_name_or_path"]).replace("/", "__")
    folder = plan.work / "logs" / "run_evaluation" / run_id / model / row.instance_id
    outcome, entry = read_report(folder / "report.json", row.instance_id)
    reason = str(entry.get("infra_failure_reason", "")) or (_why(folder) if outcome is Outcome.ERROR else "")
    return Verdict(
        outcome=outcome,
        infra_failure=bool(entry.get("infra_failure")),
        failed=failed_tests(entry),
        reason=reason,
        **common,
    )


def _why(folder: Path) -> str:
    """The last line of the log that says something."""
    try:
        lines = (folder / "run_instance.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "nothing was logged"
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "nothing was logged")
