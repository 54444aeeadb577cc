"""`kodkod swebench build`: when its file is there, and that none is lost. What rows hold is tried on real packages."""

from __future__ import annotations

import sys

import pytest

from kodkod_app.repair_eval import packages
from kodkod_app.repair_eval.packages import PackageFault
from kodkod_app.swebench import building, instance_images


@pytest.fixture
def build(kodkod, tmp_path, monkeypatch):
    def run(*numbers, then=None):
        async def rows_of(*_):
            for number in numbers:
                yield {"instance_id": f"pypi__thing-{number}"}
            if then is not None:
                raise then

        monkeypatch.setattr(building, "_rows_of", rows_of)
        return kodkod("swebench", "build", "-o", tmp_path / "data", "--package", "thing==1.0", "--instances", 2)

    return run


def test_a_data_set_is_there_when_it_is_whole_and_is_not_written_over(build, tmp_path):
    path = tmp_path / "data" / "dataset.jsonl"
    cut_short = build(1, then=PackageFault("the index is gone"))
    assert (cut_short.code, cut_short.out, path.exists()) == (1, "", False)
    whole = build(1, 2)
    assert (whole.code, whole.out) == (0, f"{path}\n")
    before = path.read_bytes()
    assert before.count(b"\n") == 2
    again = build(3)
    assert (again.code, again.out, path.read_bytes()) == (2, "", before)
    assert again.err == f"kodkod: {path} is there already; choose another folder with -o, or remove it\n"


def test_none_that_could_be_made_is_no_success(build):
    found = build()
    assert (found.code, found.out) == (1, "")
    assert "no instance could be made of these packages" in found.err


def test_an_index_that_does_not_answer_is_told_in_a_line(monkeypatch):
    for module in (packages, instance_images):
        monkeypatch.setattr(module, "_TIMEOUT_S", 0.01)
        with pytest.raises(PackageFault, match=r"took more than 0\.01 s"):
            module._pip(sys.executable, "freeze")
