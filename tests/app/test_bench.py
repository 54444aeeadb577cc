"""`kodkod bench`, `convert` and `doctor` as a person calls them, on the smallest model there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kodkod_app.commands.bench import command as bench
from kodkod_app.commands.convert import command as convert
from kodkod_app.machine_facts import placement_facts
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("tiny"), TINY, dtype=torch.float32)


def test_bench_keeps_a_record_and_a_plot(folder: Path, tmp_path: Path) -> None:
    files = ["--json", str(tmp_path / "record.json"), "--plot", str(tmp_path / "plot.svg")]
    options = [
        "-m",
        str(folder),
        "--batch",
        "1",
        "--batch",
        "2",
        "--prompt",
        "70",
        "--repeats",
        "1",
        "--peer",
        "transformers",
        *files,
    ]
    result = CliRunner().invoke(bench, options, catch_exceptions=False)
    assert result.exit_code == 0
    assert "decode, batch 2" in result.output
    record = json.loads((tmp_path / "record.json").read_text())
    points = {point["name"]: point for point in record["points"]}
    assert list(points) == [
        "load",
        "decode, batch 1",
        "decode, batch 2",
        "prefill, 70 tokens",
        "cached turn, 64 new on 70",
    ]
    decode = points["decode, batch 1"]
    assert decode["fraction"] == pytest.approx(decode["tokens_per_s"] / decode["limit_tokens_per_s"])
    assert decode["peer_s"] > 0
    assert points["load"]["peer_s"] is None
    assert record["ceilings"]["read_bytes_per_s"] > 1e8
    assert (tmp_path / "plot.svg").stat().st_size > 1000


def test_convert_says_what_it_made(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8"
    arguments = [str(folder), str(target), "--precision", "int8", "--verify"]
    result = CliRunner().invoke(convert, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert f"use it with -m {target}" in result.output.replace("\n", "")


def test_doctor_tells_the_placement(folder: Path) -> None:
    facts = list(placement_facts(folder))
    assert [fact.name for fact in facts[:2]] == ["placement", "its settings"]
    assert "tokens/s expected of at most" in facts[0].detail
    assert "engine.precision = " in facts[1].detail
    assert not list(placement_facts(None))
