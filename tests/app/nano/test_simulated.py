"""Simulated dialogues: made-up tests around a real fault, and a repair that mends it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from kodkod_app.nano.corpus import Module, read_module
from kodkod_app.nano.dialogue import Dialogue, Encoder, Turn
from kodkod_app.nano.faults import Candidates, FaultKind
from kodkod_app.nano.simulated import dialogues
from kodkod_app.nano.spans import Edit, applied
from kodkod_app.nano.tool_desk import ToolDesk
from kodkod_app.nano.weighted_faults import ADMITTED, draw_weighted
from kodkod_engine.chat.tokenizer import Tokenizer


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[ToolDesk]:
    with ToolDesk(tmp_path.resolve()) as made:
        yield made


@pytest.fixture
def found(module: Module, desk: ToolDesk) -> list[Dialogue]:
    return [dialogue for seed in range(4) for dialogue in dialogues(module, seed, desk)]


def last_edit(dialogue: Dialogue) -> Turn:
    return [turn for turn in dialogue.turns if turn.tool == "edit"][-1]


def viewed(dialogue: Dialogue) -> dict[int, str]:
    """The lines of the view, by number."""
    (view,) = (turn for turn in dialogue.turns if turn.tool == "view")
    assert view.result is not None
    numbered = [line.split("|", 1) for line in view.result.splitlines()[1:] if line[0].isdigit()]
    return {int(number): text for number, text in numbered}


def as_edit(turn: Turn) -> Edit:
    line, old, new = (turn.arguments[name] for name in ("line", "old", "new"))
    assert isinstance(line, int)
    return Edit(line, str(old), str(new))


def test_the_repair_is_on_the_view_and_brings_the_function_back(found: list[Dialogue], module: Module) -> None:
    assert len(found) > 20
    sound = {ast.dump(ast.parse(module.text(function))) for function in module.functions}
    for dialogue in found:
        edit, lines = as_edit(last_edit(dialogue)), viewed(dialogue)
        first = min(lines)
        broken = "\n".join(lines[number] for number in sorted(lines))
        mended = applied(broken, Edit(edit.line - first + 1, edit.old, edit.new))
        assert ast.dump(ast.parse(mended)) in sound
        assert ast.dump(ast.parse(broken)) not in sound


def test_the_run_is_told_as_the_test_tool_tells_it(found: list[Dialogue]) -> None:
    for dialogue in found:
        told = dialogue.turns[0].result
        assert told is not None
        assert all(f"FAILED {test}" in told for test in dialogue.tests)
        assert "Run by the failing tests, most suspicious first:" in told
        assert f"{len(dialogue.tests)} failed" in told


def test_the_faulty_function_is_among_the_suspects_and_mostly_the_first(found: list[Dialogue]) -> None:
    ranks = []
    for dialogue in found:
        view = next(turn for turn in dialogue.turns if turn.tool == "view")
        block = (dialogue.turns[0].result or "").split("most suspicious first:\n")[1].split("\n\n")[0].splitlines()
        named = f"{view.arguments['path']}:{view.arguments['start']}-{view.arguments['end']} "
        ranks.append([line.startswith(named) for line in block].index(True))
    assert 0.6 < ranks.count(0) / len(ranks) < 1


def test_some_dialogues_go_on_to_the_end(found: list[Dialogue]) -> None:
    endings = {dialogue.turns[-1].tool for dialogue in found}
    assert endings == {"edit", "finish"}
    done = next(dialogue for dialogue in found if dialogue.turns[-1].tool == "finish")
    assert (last_edit(done).result or "").startswith("edited kodkod_tools/text/lines.py\n") or "src/" in str(
        last_edit(done).arguments["path"]
    )
    assert "passed in" in (done.turns[-2].result or "")


def test_equal_seeds_give_equal_documents(module: Module, desk: ToolDesk, tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer)
    first, again, other = ([encoder.encode(found) for found in dialogues(module, seed, desk)] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_rare_kinds_are_drawn_as_often_as_frequent_ones() -> None:
    assert set(ADMITTED) == set(FaultKind)
    source = "def f(a, b):\n    total = a + b\n    if not a:\n        return total\n    return a < b\n"
    drawn = [fault.kind for seed in range(300) if (fault := draw_weighted(Candidates(source), Random(seed)))]
    assert drawn.count(FaultKind.COMPARISON) > drawn.count(FaultKind.WRONG_VARIABLE)


def test_faults_of_a_function_are_drawn_once_each() -> None:
    candidates, rng, seen = Candidates("def f(a, b):\n    return a < b\n"), Random(0), []
    while fault := draw_weighted(candidates, rng):
        seen.append(fault.edit)
    assert len(seen) == len(set(seen)) > 2
    assert not candidates.kinds


def test_the_desk_runs_no_commands(desk: ToolDesk) -> None:
    with pytest.raises(ValueError, match="view answered: error: "):
        desk.call("view", {"path": "not_there.py"})


NESTED = """\
def counter(step):
    total = 0

    def add(by):
        nonlocal total
        total = total + by * step
        return total
    return add
"""


def test_faults_that_do_not_compile_are_passed_over(desk: ToolDesk) -> None:
    """Without `total = 0` there is nothing that `nonlocal` could mean."""
    nested = read_module("shapes", "shapes/counter.py", NESTED.encode(), set())
    assert nested is not None
    repairs = [as_edit(last_edit(found)) for seed in range(60) for found in dialogues(nested, seed, desk)]
    assert len(set(repairs)) > 8
    assert not any("total = 0" in edit.new for edit in repairs)
