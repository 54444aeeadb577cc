"""Shards made of shards: what is kept of a dialogue, how much it weighs, and what is left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors import safe_open

from kodkod_app.nano.__main__ import main
from kodkod_app.nano.abridged import abridged, joined, read_whole, selected
from kodkod_app.nano.corpus import Module
from kodkod_app.nano.dialogue import (
    Dialogue,
    Encoder,
    Origin,
    Turn,
    Weight,
    edit_turn,
    finish_turn,
    restore_turn,
    run_turn,
    view_turn,
)
from kodkod_app.nano.shards import pack, write_shard
from kodkod_app.nano.simulated import dialogues
from kodkod_app.nano.tool_desk import ToolDesk
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.training.shards import Shard
from kodkod_tools.locate.suspects import Suspect, told

TEST = "tests/test_box.py::test_area"
PATH = "shapes/box.py"
SUSPECTS = told([Suspect(PATH, 1, 2, "area", (2,), 1.0), Suspect("shapes/line.py", 5, 6, "length", (6,), 0.5)])
FAILED = f"FAILED {TEST}\n{PATH}:2 in area\n  AssertionError\n\n{SUSPECTS}\n\n1 failed in 0.1 s [exit code 1]"
RUN = run_turn(FAILED, locate=True)
WRONG_VIEW = view_turn("shapes/line.py", 5, 6, "shapes/line.py\n5|def length():\n6|    return 1", learnt=False)
SEEN = f"{PATH}\n1|def area(a, b):\n2|    return a + b"
VIEW = view_turn(PATH, 1, 2, SEEN)
WRONG_EDIT = edit_turn(PATH, 2, " a", " b", "edited", learnt=False)
UNDONE = [WRONG_EDIT, run_turn("1 failed"), restore_turn(PATH, "restored")]
EDIT = edit_turn(PATH, 2, " +", " *")
END = [edit_turn(PATH, 2, " +", " *", "edited"), run_turn("1 passed"), finish_turn()]
FORMS: dict[str, list[Turn]] = {
    "short": [RUN, VIEW, EDIT],
    "to the end": [RUN, VIEW, *END],
    "wrong view": [RUN, WRONG_VIEW, VIEW, EDIT],
    "wrong edit": [RUN, VIEW, *UNDONE, *END],
    "both": [RUN, WRONG_VIEW, VIEW, *UNDONE, EDIT],
}

MakeShard = Callable[[Sequence[Sequence[Turn]]], Shard]


@pytest.fixture
def make_shard(tokenizer: Tokenizer, tmp_path: Path) -> MakeShard:
    def make(rows: Sequence[Sequence[Turn]]) -> Shard:
        found = [Dialogue((TEST,), tuple(turns), "operator", Origin.SIMULATED) for turns in rows]
        write_shard([pack(found, Encoder(tokenizer))], tmp_path / "whole.safetensors", 0, tokenizer)
        return read_whole(tmp_path / "whole.safetensors", tokenizer)

    return make


def decided(tokenizer: Tokenizer, ids: np.ndarray, weights: np.ndarray) -> str:
    return tokenizer.decode(ids[weights == Weight.DECISION].tolist(), skip_special=False)


@pytest.mark.parametrize("form", FORMS)
def test_an_abridged_dialogue_is_suspects_view_and_edit(form: str, make_shard: MakeShard, tokenizer: Tokenizer) -> None:
    ((ids, weights),) = abridged(make_shard([FORMS[form]]), tokenizer)
    text = tokenizer.decode(ids.tolist(), skip_special=False)
    suspects, view, edit = text.split("<longcat_tool_response>" + SEEN)[0], SEEN, text.split(SEEN)[1]
    assert suspects == f"{SUSPECTS}\n\n1 failed in 0.1 s [exit code 1]</longcat_tool_response>"
    assert view in text
    assert edit.startswith("</longcat_tool_response><longcat_assistant><longcat_tool_call>edit\n")
    assert edit.endswith("</longcat_tool_call>\n</longcat_s>")
    assert edit.count("<longcat_arg_value>") == 4
    end = "</longcat_arg_value>"
    assert decided(tokenizer, ids, weights) == f"2{end} +{end} *{end}"


def test_the_path_of_an_abridged_edit_weighs_like_syntax(make_shard: MakeShard, tokenizer: Tokenizer) -> None:
    ((ids, weights),) = abridged(make_shard([[RUN, VIEW, EDIT]]), tokenizer)
    wanted = tokenizer.encode_text(PATH)
    begin = max(n for n in range(ids.size) if ids[n : n + len(wanted)].tolist() == wanted)
    assert set(weights[begin : begin + len(wanted) + 1].tolist()) == {Weight.SYNTAX}


@pytest.mark.parametrize(
    "turns",
    [
        [run_turn("1 failed"), VIEW, EDIT],
        [RUN, EDIT],
        [RUN, EDIT, VIEW],
        [RUN, VIEW, WRONG_EDIT],
        [RUN, VIEW],
        [EDIT],
    ],
    ids=["no suspects", "no view", "view too late", "edit not learnt", "no edit", "no result"],
)
def test_a_dialogue_that_lacks_a_part_is_left_out(
    turns: list[Turn], make_shard: MakeShard, tokenizer: Tokenizer
) -> None:
    assert not list(abridged(make_shard([turns]), tokenizer))


def test_limits_hold_to_the_token(make_shard: MakeShard, tokenizer: Tokenizer) -> None:
    shard = make_shard([[RUN, VIEW, EDIT]])
    for cut in (abridged, selected):
        ((ids, weights),) = cut(shard, tokenizer)
        size, decisions = ids.size, int((weights == Weight.DECISION).sum())
        assert len(list(cut(shard, tokenizer, size, decisions))) == 1
        assert not list(cut(shard, tokenizer, size - 1, decisions))
        assert not list(cut(shard, tokenizer, size, decisions - 1))


def test_a_selected_dialogue_is_whole_and_its_long_values_weigh_less(
    make_shard: MakeShard, tokenizer: Tokenizer
) -> None:
    inserted = " *\n    print(a, b, a + b, a - b)"
    shard = make_shard([[RUN, VIEW, edit_turn(PATH, 2, " +", inserted)]])
    ((ids, weights),) = selected(shard, tokenizer)
    assert ids.tolist() == shard.tokens.tolist()
    changed = weights != shard.weights
    assert set(weights[changed].tolist()) == {15}
    assert tokenizer.decode(ids[changed].tolist(), skip_special=False) == f"{inserted}</longcat_arg_value>"
    assert decided(tokenizer, ids, weights).endswith(" +</longcat_arg_value>")


def test_a_long_value_that_is_not_learnt_stays_so(make_shard: MakeShard, tokenizer: Tokenizer) -> None:
    long = edit_turn(PATH, 2, " +", " *\n    print(a, b, a + b, a - b)", "edited", learnt=False)
    shard = make_shard([[RUN, VIEW, long]])
    ((_, weights),) = selected(shard, tokenizer)
    assert weights.tolist() == shard.weights.tolist()


def test_the_shard_that_was_read_stays_as_it_is(make_shard: MakeShard, tokenizer: Tokenizer) -> None:
    shard = make_shard(list(FORMS.values()))
    before = shard.weights.copy()
    assert list(abridged(shard, tokenizer))
    assert list(selected(shard, tokenizer))
    assert (shard.weights == before).all()


def test_simulated_dialogues_are_abridged(module: Module, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    with ToolDesk(tmp_path.resolve()) as desk:
        found = list(dialogues(module, 0, desk))
    write_shard([pack(found, Encoder(tokenizer))], path, 0, tokenizer)
    cut = list(abridged(read_whole(path, tokenizer), tokenizer, 10_000, 10_000))
    assert len(cut) == len(found)
    edits = {str(turn.arguments["new"]) for one in found for turn in one.turns if turn.tool == "edit"}
    assert {decided(tokenizer, *one).split("</longcat_arg_value>")[2] for one in cut} == edits


@pytest.mark.parametrize("command", ["abridged", "selected"])
def test_the_commands_make_one_shard_of_several(
    command: str, make_shard: MakeShard, tokenizer: Tokenizer, tokenizer_folder: Path, tmp_path: Path
) -> None:
    whole = make_shard(list(FORMS.values()))
    output = tmp_path / "derived.safetensors"
    asked = [command, "-t", str(tokenizer_folder), "-o", str(output), "--max-tokens", "1000", "--max-decisions", "100"]
    result = CliRunner().invoke(main, [*asked, str(whole.path), str(whole.path)])
    assert result.exit_code == 0, result.output
    count = 2 * len(FORMS)
    assert result.output.startswith(f"{count} documents, ")
    assert read_whole(output, tokenizer).starts.size == count + 1
    with safe_open(output, "numpy") as shard:
        assert shard.metadata()["documents"] == str(count)


def test_faults_are_told_in_a_line(
    make_shard: MakeShard, tokenizer: Tokenizer, tokenizer_folder: Path, tmp_path: Path
) -> None:
    whole = make_shard([[RUN, VIEW, EDIT]]).path
    other = tmp_path / "other"
    other.mkdir()
    fields = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    (other / "tokenizer.json").write_text(json.dumps(fields, indent=3), encoding="utf-8")
    faults = {
        "made with another tokenizer": ["-t", str(other), str(whole)],
        "no such file": ["-t", str(tokenizer_folder), str(tmp_path / "none.safetensors")],
        "no documents for": ["-t", str(tokenizer_folder), "--max-tokens", "1", str(whole)],
        "give the folder of a complete checkpoint": ["-t", str(tmp_path / "empty"), str(whole)],
    }
    for cause, arguments in faults.items():
        result = CliRunner().invoke(main, ["abridged", "-o", str(tmp_path / "out.safetensors"), *arguments])
        assert result.exit_code == 1
        assert cause in result.output
        assert result.output.count("\n") == 1
    assert not (tmp_path / "out.safetensors").exists()


def test_joined_shards_keep_every_token_and_weight(
    make_shard: MakeShard, tokenizer: Tokenizer, tokenizer_folder: Path, tmp_path: Path
) -> None:
    whole, output = make_shard(list(FORMS.values())), tmp_path / "joined.safetensors"
    asked = ["joined", "-t", str(tokenizer_folder), "-o", str(output), str(whole.path), str(whole.path)]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    both = read_whole(output, tokenizer)
    assert both.tokens.tolist() == whole.tokens.tolist() * 2
    assert both.weights.tolist() == whole.weights.tolist() * 2
    assert list(joined(whole, tokenizer, max_tokens=1)) == []
