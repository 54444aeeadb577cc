"""`kodkod bench`, `convert` and `doctor` as a person calls them, on the smallest model there is."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from engine.backends.fake_vllm_server import VOCAB_SIZE, FakeServer, serving
from kodkod_app.cli import main
from kodkod_app.commands.bench import _points_table
from kodkod_app.commands.bench import command as bench
from kodkod_app.commands.convert import command as convert
from kodkod_app.machine_facts import placement_facts
from kodkod_engine.benchmark.points import Bench, Plan, Point, timed_load
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.config import EngineConfig
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
        "cold start, to the first token",
        "decode, batch 1",
        "decode, batch 2",
        "prefill, 70 tokens",
        "cached turn, 64 new on 70",
        "speculation, a text from an open file",
    ]
    assert points["cold start, to the first token"]["seconds"] > points["load"]["seconds"]
    assert points["cached turn, 64 new on 70"]["fraction"] > 0
    speculation = points["speculation, a text from an open file"]
    told = re.search(r"([\d.]+) times as fast as without, (\d+) of (\d+) drafts right", speculation["note"])
    assert told is not None
    assert float(told[1]) > 0
    assert int(told[2]) == int(told[3])  # a model so small may find no draft worth a longer step, but none is wrong
    decode = points["decode, batch 1"]
    assert decode["fraction"] == pytest.approx(decode["tokens_per_s"] / decode["limit_tokens_per_s"])
    assert decode["peer_s"] > 0
    assert points["load"]["peer_s"] is None
    assert record["ceilings"]["read_bytes_per_s"] > 1e8
    assert (tmp_path / "plot.svg").stat().st_size > 1000


def test_a_running_vllm_server_is_a_peer(folder: Path, tmp_path: Path) -> None:
    served = tmp_path / "served"
    served.mkdir()
    write_byte_tokenizer(served)
    (served / "config.json").write_text(f'{{"vocab_size": {VOCAB_SIZE}}}')
    with serving(FakeServer(served)) as server:
        options = [
            "-m",
            str(folder),
            "--batch",
            "2",
            "--prompt",
            "70",
            "--repeats",
            "1",
            "--peer",
            f"vllm:{server.url}",
        ]
        result = CliRunner().invoke(bench, [*options, "--json", str(tmp_path / "r.json")], catch_exceptions=False)
    assert result.exit_code == 0
    points = {point["name"]: point for point in json.loads((tmp_path / "r.json").read_text())["points"]}
    assert points["decode, batch 2"]["peer_s"] > 0
    assert points["prefill, 70 tokens"]["peer_s"] > 0


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_peer_that_is_not_here_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "-m", str(folder), "--peer", "vllm"])
    assert ended.value.code == 4
    assert capsys.readouterr().err.strip().startswith("kodkod: vLLM is not installed")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "-m", str(folder), "--peer", "llama"])
    assert ended.value.code == 2
    assert "there are transformers, vllm and vllm:http://" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--json", "nowhere/record.json"], "there is no folder nowhere"),
        (["--json", "."], "cannot be written"),
        (["--plot", "nowhere/plot.png"], "there is no folder nowhere"),
        (["--plot", "plot.foo"], "name it .png or .svg"),
        (["--prompt", "327680"], "the model's context has 327,680 tokens"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], cause: str
) -> None:
    def loaded(*_options: object) -> None:
        pytest.fail("it was loaded")

    monkeypatch.setattr("kodkod_engine.benchmark.points.timed_load", loaded)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "-m", str(folder), *options])
    assert ended.value.code == 2
    assert cause in " ".join(capsys.readouterr().err.split())


def test_what_was_measured_is_kept_when_it_is_interrupted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_bench: Bench, _length: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "_prefill", interrupted)
    files = ["--json", str(tmp_path / "record.json"), "--plot", str(tmp_path / "plot.png")]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "-m", str(folder), "--batch", "1", "--prompt", "8", "--repeats", "1", *files])
    assert ended.value.code == 130
    record = json.loads((tmp_path / "record.json").read_text())
    assert [point["name"] for point in record["points"]] == [
        "load",
        "cold start, to the first token",
        "decode, batch 1",
    ]
    assert "decode, batch 1" in capsys.readouterr().out


def test_a_batch_decodes_side_by_side(folder: Path) -> None:
    """The cache used to hold 32,768 tokens, fewer than 256 sequences have: they took turns."""
    plan = Plan(batches=(256,), prompts=(60_000,), repeats=1)
    engine, _ = timed_load(folder, EngineConfig(max_cached_tokens=plan.cached_tokens, max_running=256))
    try:
        assert engine.max_context_tokens >= plan.longest_tokens
        engine_blocks = plan.cached_tokens // EngineConfig().block_size
        blocks_each = -(-(plan.context_tokens + plan.decode_tokens) // EngineConfig().block_size)
        assert engine_blocks >= 256 * blocks_each
    finally:
        engine.close()


def test_no_figure_is_cut_short_on_a_narrow_screen() -> None:
    point = Point("cold start, to the first token", 25.7923, 25.7923, 25.8, 3_549.04, 13_154.9, 8.1)
    console = Console(width=80, file=io.StringIO())
    console.print(_points_table([point, replace(point, peer_s=None, note="1.87 times as fast as without")]))
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(figure in told for figure in ("25,792", "25,792-25,800", "3,549", "13,155", "27%"))
    assert "\N{HORIZONTAL ELLIPSIS}" not in told
    assert all(len(line) <= 80 for line in told.splitlines())


def test_convert_says_what_it_made(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8"
    arguments = [str(folder), str(target), "--precision", "int8", "--verify"]
    result = CliRunner().invoke(convert, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert f"use it with -m {target}" in result.output.replace("\n", "")


def test_names_with_all_kinds_of_signs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is to be typed can be typed, and a fault is one line."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(folder), "a [red]b"])
    assert ended.value.code == 0
    told = capsys.readouterr().out.strip()
    assert told.startswith("a [red]b: 16 files, ")
    assert told.endswith("int4; use it with -m 'a [red]b'")
    with pytest.raises(SystemExit) as ended:
        main(["convert", "no\nsuch \x1b[31mfolder", "new"])
    assert ended.value.code == 4
    fault = capsys.readouterr().err.strip()
    assert fault.startswith("kodkod: no such \N{REPLACEMENT CHARACTER}[31mfolder/config.json: ")
    assert "\n" not in fault


def test_doctor_tells_the_placement(folder: Path) -> None:
    facts = list(placement_facts(folder))
    assert [fact.name for fact in facts[:2]] == ["placement", "its settings"]
    assert "tokens/s expected of at most" in facts[0].detail
    assert facts[1].detail == "none: loading chooses it"
    assert "; engine.precision = " in facts[2].detail
    assert not list(placement_facts(None))
