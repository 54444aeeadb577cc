"""`kodkod generate`: every home and precision that `kodkod doctor` advises can be asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from kodkod_app.bootstrap import COMPILING, open_engine
from kodkod_app.cli import main
from kodkod_app.commands.generate import command as generate
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.layers.packed import Precisions
from kodkod_engine.models.checkpoint import Checkpoint
from kodkod_engine.models.convert import convert
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_random_checkpoint(tmp_path_factory.mktemp("tiny"), TINY)
    write_byte_tokenizer(folder)
    return folder


def _said(model: Path, *options: str) -> str:
    arguments = ["def f(x):", "-m", str(model), "--max-tokens", "12", "--output-format", "json", *options]
    result = CliRunner().invoke(generate, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["usage"]["generated_tokens"] > 0
    return str(answer["text"])


def test_packed_on_the_way_or_mapped_from_a_conversion_says_the_same(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "int4", Precisions.of("int4"))
    packed = _said(folder, "--precision", "int4")
    assert _said(tmp_path / "int4", "--weights", "mapped", "--ngram-tables", "mapped") == packed
    assert _said(folder) != packed


@pytest.mark.parametrize("option", ["--temperature", "--top-p"])
def test_what_is_no_number_is_a_wrong_word(folder: Path, option: str) -> None:
    found = CliRunner().invoke(generate, ["hi", "-m", str(folder), option, "nan"])
    assert (found.exit_code, "not nan" in found.stderr, "Traceback" in found.stderr) == (2, True, False)


def test_what_cannot_be_mapped_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", "hi", "-m", str(folder), "--weights", "mapped"])
    assert ended.value.code == 4
    assert capsys.readouterr().err.strip().endswith("only converted weights can be mapped; run `kodkod convert` first")


def test_a_missing_tokenizer_is_told_before_weights_are_read(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = shutil.copytree(folder, tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    monkeypatch.delattr(Checkpoint, "load_into")
    for command in (["generate", "hi"], ["-p", "hi", "-C", str(tmp_path)]):
        with pytest.raises(SystemExit) as ended:
            main([*command, "-m", str(mute)])
        assert ended.value.code == 4
        assert "has no tokenizer.json" in capsys.readouterr().err.strip().splitlines()[-1]


def test_compiling_at_the_first_use_is_told_on_standard_error(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = open_engine(folder)
    try:
        engine.runner.on_compile()
    finally:
        engine.close()
    assert capsys.readouterr().err == f"kodkod: {COMPILING}\n"
