"""Scenes judged by the bundled model and ranking, through the agent's own code."""

from __future__ import annotations

import asyncio
import json

import pytest
from click.testing import CliRunner

from kodkod_app.nano.ranking.__main__ import main
from kodkod_app.nano.ranking.ranker import PlausibleEdits
from kodkod_app.nano.ranking.scenes import (
    Judged,
    Opinion,
    Scene,
    judge,
    read_judged,
    read_scenes,
    told,
    write_scenes,
)
from kodkod_app.nano.spans import Edit

from .test_fit import CLIP
from .test_fit import TOLD as CLIP_TOLD

TOLD = CLIP_TOLD.replace(": 5 4 2", ": 6 4 2")
SCENE = Scene(
    "clips",
    "missing_return",
    ("test_clip.py::test_top",),
    TOLD,
    {"clip.py": CLIP.replace("return value", "value")},
    "clip.py",
    Edit(6, "value", "return value"),
)


@pytest.fixture
def scenes_file(tmp_path):
    write_scenes([SCENE], tmp_path / "scenes.jsonl")
    return tmp_path / "scenes.jsonl"


def test_scenes_survive_the_file(scenes_file):
    assert read_scenes([scenes_file, scenes_file]) == [SCENE, SCENE]
    assert SCENE.wanted == ("clip.py", "6", "    return value")
    (scenes_file.parent / "bad.jsonl").write_text('{"package": 1}\n')
    with pytest.raises(ValueError, match="package"):
        read_scenes([scenes_file.parent / "bad.jsonl"])


def test_the_commands_judge_and_tell(scenes_file, tmp_path):
    judged_file = tmp_path / "judged.jsonl"
    done = CliRunner().invoke(main, ["judge", "--most", "12", "-o", str(judged_file), str(scenes_file)])
    assert done.exit_code == 0, done.output
    (judged,) = read_judged(judged_file)
    assert (judged.package, judged.kind) == ("clips", "missing_return")
    assert len(judged.opinions) == 12
    assert sum(one.is_repair for one in judged.opinions) == 1
    assert all(max(one.ranked, one.view, one.edit) < 0 for one in judged.opinions)
    assert len({one.view for one in judged.opinions}) == 1  # there is one function to look at
    assert len({one.edit for one in judged.opinions}) > 6
    done = CliRunner().invoke(main, ["share", "--view", "0", "--edit", "0", "--edit", "0.5", str(judged_file)])
    figures = json.loads(done.output)
    assert (figures["scenes"], figures["repair among the edits"]) == (1, 1)
    assert list(figures["by shares"]) == ["0, 0", "0, 0.5"]


def test_a_scene_that_nothing_is_known_of_has_no_edits():
    unread = Scene("clips", "negation", SCENE.tests, TOLD, {"clip.py": "def (:\n"}, "clip.py", Edit(9, "a", "b"))
    assert unread.wanted is None
    from kodkod_app.bootstrap import open_model
    from kodkod_engine.config import EngineConfig

    model = open_model(None, EngineConfig())
    try:
        judged = asyncio.run(judge(unread, model, PlausibleEdits.bundled(), 4))
    finally:
        model.engine.close()
    assert judged.opinions == ()
    assert judged.place((0.5, 0.5)) is None


def test_the_shares_decide_who_is_heard_and_certainty_counts_only_so_far():
    wrong, right = Opinion(False, -1.0, -5.0, -1.0), Opinion(True, -2.0, -1.0, -0.5)
    judged = Judged("clips", "negation", (wrong, right))
    assert judged.place((0, 0)) == 1
    assert judged.place((0, 1)) == 1
    assert judged.place((1, 0)) == 0
    far = Judged("clips", "negation", (wrong, Opinion(True, -0.5, -800.0, -0.5)))
    assert far.place((0.2, 0)) == 1
    assert far.place((0.1, 0)) == 0
    figures = told([judged, Judged("clips", "negation", (wrong,))], [(0, 0), (1, 1)], [1, 3])
    assert figures["by shares"] == {"0, 0": [0.0, 0.5], "1, 1": [0.5, 0.5]}
    assert figures["repair among the edits"] == 1
