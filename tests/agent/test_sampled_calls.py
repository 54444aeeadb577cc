"""The checks of `agent/bench/sampled_calls.py` find what they are there to find, and sampling goes on where it was."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import pytest

from agent.conftest import call

BENCH = Path(__file__).parents[2] / "agent/bench"
SOUND = [
    call("view", path="odd/crlf.ini", start=2, end=3),
    call("view", path="link/tags.md", around=1),
    call("edit", path="odd/crlf.ini", old="x = 1\r\n", new=""),
    call("edit", path="odd/latin.txt", old="größ", new="klein", line=1),
    call("edit", path="json/decoder.py", old="import re\n", new="import sre\n"),
    call("find", name="[z-a]", path="odd"),
    call("write", path="new/deep/a.py", content="x = 1\n"),
    call("shell", command="rm -rf /"),
]
UNSOUND = {
    "names a declared tool": call("explode"),
    "its arguments fit the schema": call("view", path="json", start=0),
    "its path exists": call("view", path="json/gone.py"),
    "old stands in the file": call("edit", path="odd/crlf.ini", old="x = 1\ny", new=""),
    "its lines are lines of the file": call("view", path="odd/one_line", end=2),
    "it writes inside the tree": call("write", path="out/passwd", content=""),
    "the tool takes it": call("edit", path=".git/config", old="[core]", new=""),
    "parses": call("view", path="json").model_copy(update={"fault": "torn"}),
}


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("call_checks")


@pytest.fixture
def checker(checks, tmp_path):
    tools = checks.context_of(checks.make_tree(tmp_path / "tree"), tmp_path / "logs")
    return checks.Checker.beside(tools, tmp_path / "copy")


def files_of(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


async def test_sound_calls_have_all_they_can_have_and_leave_nothing_behind(checker):
    for made in SOUND:
        [found] = await checker.turn([made])
        assert found.is_sound, found
        assert (found.outcome == "done") == (made.name not in ("find", "shell")), found
    assert files_of(checker.tools.work_tree) == files_of(checker.tree)
    assert not (checker.tools.work_tree / "new").exists()


@pytest.mark.parametrize("lacking", UNSOUND)
async def test_what_a_call_lacks_is_found(checker, lacking):
    [found] = await checker.turn([UNSOUND[lacking]])
    assert not found.held[lacking]
    assert found.text


async def test_a_call_meets_what_those_before_it_left(checker):
    first = call("edit", path="odd/one_line", old="no line feed", new="a word")
    again = await checker.turn([first, first])
    assert [one.is_sound for one in again] == [True, False]
    zeroed = call("edit", path="odd/one_line", old="no line", new="no \0")
    assert [
        one.outcome
        for one in await checker.turn(
            [zeroed, first.model_copy(update={"arguments": {**first.arguments, "old": "\0"}})]
        )
    ] == ["done", "binary"]
    absolute = call("edit", path=f"{checker.tree}/odd/one_line", old="a word", new="")
    assert all(one.is_sound for one in await checker.turn([first, absolute]))


@pytest.mark.slow
async def test_sampling_goes_on_where_it_was(checks, tmp_path):
    sampling = importlib.import_module("sampled_calls")
    options = argparse.Namespace(streams=4, max_tokens=160)
    counts = []
    for wanted in (2, 2, 4):
        await sampling.sample("random", tmp_path, argparse.Namespace(calls=wanted, **vars(options)))
        with (tmp_path / "random.jsonl").open("ab") as file:
            file.write(b'{"number": 0, "ca')  # as a kill leaves it
        work = sampling.work_of("random", tmp_path)
        counts.append((work.num_calls >= wanted, len(work.turns)))
    assert [enough for enough, _ in counts] == [True, True, True]
    assert counts[0][1] == counts[1][1] <= counts[2][1]
    found = sampling.figures(work)
    assert not found["unsound"]
    assert not found["texts_of_unsound_turns"]
    assert found["properties"]["parses"]["of"] == found["calls"] == work.num_calls
