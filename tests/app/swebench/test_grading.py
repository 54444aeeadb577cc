"""Grading by the official package: controls, traps, patches that do not apply; with Docker where there is one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kodkod_app.boxes import BoxPlan, open_box
from kodkod_app.repair_eval.packages import Package, PackageSpec
from kodkod_app.swebench.building import eval_script, is_exact, read_statuses
from kodkod_app.swebench.folder_grading import Bed, in_folder
from kodkod_app.swebench.rows import write_rows
from kodkod_app.swebench.verdicts import Verdicts
from kodkod_app.swebench.work_tree import checkout, make_single_commit
from kodkod_sandbox.base import SandboxKind
from kodkod_sandbox.image_files import build_from_base, copy_from_image, has_image
from reachable import let_others_in

from ..conftest import FINISH, LOOK, MEND
from .conftest import PATCH

DOCKERFILE = """\
FROM {base}
COPY tree /testbed
WORKDIR /testbed
"""


def grade(kodkod, dataset, predictions, out, on_clones, *more):
    ended = kodkod("swebench", "grade", dataset, predictions, "-o", out, *on_clones, *(more or ["--no-docker"]))
    assert ended.code == 0, ended.err
    return ended


def outcomes(out, source):
    return {one.instance_id[-1]: one.outcome.value for one in Verdicts(out) if one.source == source}


LINK = """\
diff --git a/.git/{name} b/.git/{name}
new file mode 120000
--- /dev/null
+++ b/.git/{name}
@@ -0,0 +1 @@
+{target}
\\ No newline at end of file
"""


@pytest.mark.skipif(shutil.which("patch") is None, reason="no patch")
@pytest.mark.parametrize("name", ["eval.sh", "test_output.txt"])
async def test_a_patch_that_makes_links_has_nothing_written_or_read_elsewhere(name, tmp_path):
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    tree.mkdir()
    elsewhere.write_text("mine")
    make_single_commit(tree)
    async with open_box(BoxPlan(tree, SandboxKind.NONE)) as box:
        bed = Bed(tree, box)
        patch = LINK.format(name=name, target=elsewhere).encode()
        assert (await bed.apply(patch, ["git apply --verbose", "patch --batch --fuzz=5 -p1 -i"]))[0]
        assert (tree / ".git" / name).is_symlink()
        assert await bed.evaluate("echo theirs", 60) == ("theirs\n", False)
        # A test may put a link there, too, while it runs.
        script = f"echo theirs; ln -sf {elsewhere} .git/test_output.txt"
        assert await bed.evaluate(script, 60) == ("theirs\n", False)
    assert elsewhere.read_text() == "mine"


def test_controls_and_predictions_without_docker(kodkod, rows, on_clones, tmp_path):
    dataset, out = tmp_path / "dataset.jsonl", tmp_path / "out"
    write_rows(rows[:2], dataset)
    assert "100.0 % (2 of 2" in grade(kodkod, dataset, "gold", out, on_clones).out
    assert "0.0 % (0 of 2" in grade(kodkod, dataset, "empty", out, on_clones).out
    write_rows(rows[:4], dataset)
    predictions = [
        {"instance_id": "local__calc-1", "model_name_or_path": "m", "model_patch": PATCH},
        {"instance_id": "local__calc-2", "model_name_or_path": "m", "model_patch": ""},
        {"instance_id": "local__calc-3", "model_name_or_path": "m", "model_patch": PATCH.replace("a - b", "a / b")},
        {"instance_id": "local__calc-4", "model_name_or_path": "m", "model_patch": f"{PATCH}\udcff"},
    ]
    path = tmp_path / "preds.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in predictions))
    grade(kodkod, dataset, path, out, on_clones)
    assert outcomes(out, "run-1") == {"1": "resolved", "2": "empty_patch", "3": "error", "4": "error"}
    summary = json.loads(next((out / "grading").glob("m.run-1-folders-*.json")).read_text())
    assert (summary["schema_version"], summary["resolved_ids"]) == (2, ["local__calc-1"])
    assert summary["empty_patch_ids"] == ["local__calc-2"]
    assert summary["error_ids"] == ["local__calc-3", "local__calc-4"]


def test_logs_that_cannot_be_written_are_told_in_a_line(kodkod, rows, on_clones, tmp_path):
    write_rows(rows[:1], tmp_path / "dataset.jsonl")
    prediction = {"instance_id": "local__calc-1", "model_name_or_path": "m" * 300, "model_patch": PATCH}
    (tmp_path / "preds.json").write_text(json.dumps([prediction]))
    out = tmp_path / "out"
    ended = kodkod(
        "swebench", "grade", tmp_path / "dataset.jsonl", tmp_path / "preds.json", "-o", out, *on_clones, "--no-docker"
    )
    assert (ended.code, "no disk takes a name of this length" in ended.err) == (1, True), ended.err


def test_tests_the_patch_changed_are_those_of_the_commit(kodkod, rows, on_clones, tmp_path):
    """A patch that makes the failing test pass by changing it mends nothing."""
    dataset, out = tmp_path / "dataset.jsonl", tmp_path / "out"
    write_rows(rows[:1], dataset)
    cheat = (
        "diff --git a/tests/test_calc.py b/tests/test_calc.py\n--- a/tests/test_calc.py\n+++ b/tests/test_calc.py\n"
        "@@ -4,3 +4,3 @@\n \n def test_add():\n-    assert add(1, 2) == 3\n+    assert add(1, 2) == -1\n"
    )
    path = tmp_path / "preds.json"
    path.write_text(json.dumps([{"instance_id": "local__calc-1", "model_name_or_path": "m", "model_patch": cheat}]))
    grade(kodkod, dataset, path, out, on_clones)
    assert outcomes(out, "run-1") == {"1": "unresolved"}


def test_the_trap_of_the_root(clones, tmp_path):
    """The tests' folder has settings of its own: where no root is named, ids are relative to it, and match nothing."""
    tree = clones / "local" / "calc"

    def ids(*options):
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options]
        environment = {"PYTHONPATH": str(tree), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": os.defpath}
        said = subprocess.run(
            [*command, "tests/test_calc.py"], cwd=tree, env=environment, capture_output=True, text=True, check=True
        ).stdout
        return {line for line in said.splitlines() if "::" in line}

    assert "test_calc.py::test_add" in ids()
    assert "tests/test_calc.py::test_add" in ids(f"--rootdir={tree}")
    package = Package(PackageSpec(name="calc", version="1"), tree, tmp_path, ("calc.py",))
    script = eval_script(package, ["tests/test_calc.py"])
    assert "pytest -rA -p no:cacheprovider --rootdir=/testbed tests/test_calc.py" in script
    assert "git checkout HEAD -- tests/test_calc.py" in script


def test_the_trap_of_ids_with_blanks():
    """The official parser keeps what stands before a blank; such ids are told from whole ones."""
    log = (
        ">>>>> Start Test Output\nPASSED t.py::test_a\nPASSED t.py::test_w[one two]\nPASSED t.py::test_w[one three]\n"
        "FAILED t.py::test_w[x-y] - assert 1\nSKIPPED [1] t.py:3: why\n>>>>> End Test Output\nPASSED t.py::late\n"
    )
    found = read_statuses(log)
    assert found == {"t.py::test_a": "PASSED", "t.py::test_w[one": "PASSED", "t.py::test_w[x-y]": "FAILED"}
    assert [name for name in found if is_exact(name)] == ["t.py::test_a", "t.py::test_w[x-y]"]
    assert not is_exact("t.py")


def test_a_script_gets_the_folder_for_the_testbed():
    script = "cd /testbed\nPYTHONPATH=/testbed/src source /opt/miniconda3/envs/testbed/bin/x '/testbed' /testbed2\n"
    assert in_folder(script, Path("/w t")) == (
        "cd /w t\nPYTHONPATH=/w t/src source /opt/miniconda3/envs/testbed/bin/x '/w t' /testbed2\n"
    )


def test_what_cannot_be_graded(kodkod, rows, dataset, tmp_path):
    classic = tmp_path / "classic.jsonl"
    write_rows([{key: value for key, value in rows[0].items() if key not in ("eval_script", "image")}], classic)
    ended = kodkod("swebench", "grade", classic, "gold", "-o", tmp_path / "out")
    assert (ended.code, "no eval_script" in ended.err) == (2, True)
    for text in ('{"instance_id": "local__calc-1", "model_patch": 3}', '{"model_patch": ""}', "[", "3"):
        (tmp_path / "preds.jsonl").write_text(text + "\n")
        ended = kodkod("swebench", "grade", dataset, tmp_path / "preds.jsonl", "-o", tmp_path / "out")
        assert (ended.code, "holds no predictions" in ended.err) == (2, True), ended.err
    for text, cause in (
        ('{"instance_id": "local__calc-1"}\n{bad', "line 2: Expecting property name"),
        ('{"instance_id": 5, "model_patch": ""}', "5 names no instance"),
        ('{"model_patch": ""}', "'instance_id' is missing"),
        ("", "it is empty"),
    ):
        (tmp_path / "preds.jsonl").write_text(text + "\n")
        ended = kodkod("swebench", "grade", dataset, tmp_path / "preds.jsonl", "-o", tmp_path / "out")
        assert (ended.code, f"holds no predictions ({cause}" in ended.err) == (2, True), ended.err
    (tmp_path / "preds.jsonl").write_text('{"instance_id": "other", "model_patch": ""}\n')
    assert "no instance other" in kodkod("swebench", "grade", dataset, tmp_path / "preds.jsonl", "-o", tmp_path).err
    assert kodkod("swebench", "grade", dataset, tmp_path, "-o", tmp_path / "out").code == 2


@pytest.mark.docker
@pytest.mark.timeout(1200)
def test_both_places_agree_and_the_agent_works_in_the_image(kodkod, record, rows, clones, on_clones, tmp_path):
    """Images of our own: the controls and a run in the official containers, then the same in folders."""
    dataset, out = tmp_path / "dataset.jsonl", tmp_path / "out"
    write_rows(rows[:2], dataset)
    for row in rows[:2]:
        context = tmp_path / row["instance_id"]
        context.mkdir()
        checkout(clones / "local" / "calc", str(row["base_commit"]), context / "tree")
        make_single_commit(context / "tree")
        build_from_base(context, DOCKERFILE, str(row["image"]))
        assert has_image(str(row["image"]))
    copy_from_image(str(rows[0]["image"]), "/testbed", tmp_path / "copied")
    assert (tmp_path / "copied" / "calc.py").read_text() == (context / "tree" / "calc.py").read_text()
    let_others_in(tmp_path)
    ended = kodkod(
        "swebench", dataset, "-o", out, "-m", record(LOOK, MEND, FINISH), "--sandbox", "docker", "--workers", "2"
    )
    assert ended.code == 0, ended.err
    for more in (["--docker"], ["--no-docker"]):
        assert "100.0 % (2 of 2" in grade(kodkod, dataset, out, out, on_clones, *more).out
        assert "100.0 % (2 of 2" in grade(kodkod, dataset, "gold", out, on_clones, *more).out
        assert "0.0 % (0 of 2" in grade(kodkod, dataset, "empty", out, on_clones, *more).out
    found = json.loads(kodkod("swebench", "report", out, "--output-format", "json").out)
    assert found["places_disagree_on"] == []
    assert found["controls"]["gold"]["value"] == 1.0
    assert found["controls"]["empty"]["value"] == 0.0
