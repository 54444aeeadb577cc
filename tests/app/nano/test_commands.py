"""`python -m kodkod_app.nano`: what the commands refuse, and the corpus from a folder that has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from kodkod_app.nano import corpus
from kodkod_app.nano.__main__ import main


@pytest.mark.parametrize("part", ["0/2", "3/2", "x", "1/", "1/9999"])
def test_a_part_that_is_none_is_refused(part: str, tmp_path: Path) -> None:
    asked = ["simulated", "-t", str(tmp_path), "-o", str(tmp_path / "shard"), "--part", part]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 2
    assert f"--part {part} is not K/N" in result.output


def test_the_corpus_is_fetched_once_and_its_licences_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_wheel: Callable[..., corpus.CorpusPackage]
) -> None:
    monkeypatch.setenv("KODKOD_HOME", str(tmp_path))
    package = make_wheel(corpus.wheels_folder())
    monkeypatch.setattr(corpus, "corpus_packages", lambda: (package,))
    result = CliRunner().invoke(main, ["corpus", "-o", str(tmp_path / "manifest.json")])
    assert result.exit_code == 0, result.output
    assert "1 packages" in result.output
    (entry,) = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert (entry["name"], entry["declares"]) == ("shapes", "MIT")
