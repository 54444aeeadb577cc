"""Runs: they learn, balance their experts, stop on a signal and go on to the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kodkod_engine.errors import CheckpointCorrupt, CheckpointMissing
from kodkod_engine.models.loading import load_model
from kodkod_engine.training.__main__ import MALLOC, NANO_CONFIG, main
from kodkod_engine.training.batches import Source
from kodkod_engine.training.evaluation import evaluate
from kodkod_engine.training.export import export, load_trainable
from kodkod_engine.training.options import TrainOptions
from kodkod_engine.training.trainer import Trainer, begin_model, load_run, train


def options(output: Path, **given) -> TrainOptions:
    values = {"steps": 40, "batch_tokens": 512, "warmup_steps": 5, "draft_share": 0.5, **given}
    return TrainOptions(output=output, **values)


@pytest.mark.parametrize("muon", [True, False])
def test_it_learns(config, make_shard, tmp_path, muon):
    run, held_out = tmp_path / "run", make_shard("held", seed=9)
    metrics = train(config, [Source(make_shard("a"))], options(run, steps=60, muon=muon, draft_factor=0.5))
    assert metrics.is_finished
    assert metrics.steps == 60
    figures = evaluate(load_run(run)[0], held_out)
    # 61 tokens are as likely at first: 4.1 nats.
    assert figures.loss < 2.5
    told = figures.told()
    assert told["draft_acceptance"] > 0.1
    assert set(told["by_weight"]) == {"5", "10", "100"}
    assert told["by_weight"]["100"]["accuracy"] > 0.3
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10, 61, 10))
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_bf16_products_learn_as_fp32_ones_do(config, make_shard, tmp_path):
    """The way a GPU trains, on a processor."""
    sources = [Source(make_shard("a"))]
    losses = {}
    for bf16 in (False, True):
        trainer = Trainer(config, sources, options(tmp_path / str(bf16), steps=30, bf16=bf16))
        first = trainer._loss_of(trainer.supply.next()).total
        while trainer.progress < 1:
            trainer.step()
        assert all(weight.dtype == torch.float32 for weight in trainer.model.parameters())
        losses[bf16] = float(first.detach()), trainer.loss
    assert losses[True][0] == pytest.approx(losses[False][0], rel=0.02)
    assert losses[True][1] == pytest.approx(losses[False][1], rel=0.05)


def test_a_stopped_run_ends_with_the_same_weights(config, make_shard, tmp_path):
    sources = [Source(make_shard("a"))]
    whole = Trainer(config, sources, options(tmp_path / "whole"))
    first = Trainer(config, sources, options(tmp_path / "parts"))
    for _ in range(20):
        whole.step()
    for _ in range(9):
        first.step()
    first.save()
    second = Trainer(config, sources, options(tmp_path / "parts"))
    for _ in range(11):
        second.step()
    assert second.steps == whole.steps
    assert second.tokens == whole.tokens
    assert second.loss == whole.loss
    other = second.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, other[name]), name


def test_a_wall_clock_run_ends_in_time_with_the_rate_at_zero(config, make_shard, tmp_path):
    begun = time.monotonic()
    metrics = train(config, [Source(make_shard("a"))], options(tmp_path / "run", steps=None, minutes=0.02))
    assert metrics.is_finished
    assert 1.2 <= metrics.elapsed_s <= time.monotonic() - begun


def test_experts_share_the_work(config, make_shard, tmp_path):
    trainer = Trainer(config, [Source(make_shard("a"))], options(tmp_path / "run", steps=50, balance_rate=0.1))
    for _ in range(50):
        trainer.step()
    figures = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert figures[-1]["real_experts"] == pytest.approx(2, abs=0.35)
    assert figures[-1]["max_load"] < 2


def test_a_run_begins_from_a_checkpoint(config, make_shard, tmp_path):
    sources = [Source(make_shard("a"))]
    train(config, sources, options(tmp_path / "run"))
    model, values = load_run(tmp_path / "run")
    folder = export(model, values, tmp_path / "checkpoint", dtype="float32")
    again = Trainer(config, sources, options(tmp_path / "again", init=folder))
    for name, slot in again.model.checkpoint_slots().items():
        assert torch.equal(slot, model.checkpoint_slots()[name]), name


def test_amplification_is_in_the_weights_alone(config, make_shard, tmp_path):
    config["tie_word_embeddings"] = True
    plain, loud = (
        Trainer(config, [Source(make_shard("a"))], options(tmp_path / str(factor), amplification=factor)).model
        for factor in (1.0, 20.0)
    )
    ids = torch.tensor([[5, 9, 30, 2, 41]])
    torch.testing.assert_close(loud.embed(ids), plain.embed(ids) * 20)
    first = torch.randn(1, 5, plain.config.hidden_size)
    torch.testing.assert_close(
        (first * loud.main.norm.weight) @ loud.head.T, (first * plain.main.norm.weight) @ plain.head.T
    )


def test_faults_are_named(config, make_shard, tmp_path):
    with pytest.raises(CheckpointMissing, match="train first"):
        load_run(_with_config(tmp_path / "none", config))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").write_bytes(b"not a state")
    with pytest.raises(CheckpointCorrupt, match="remove it"):
        Trainer(config, [Source(make_shard("a"))], options(tmp_path / "run"))
    with pytest.raises(ValueError, match="either"):
        TrainOptions(output=tmp_path)


def _with_config(folder: Path, config) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_command_stops_on_a_signal_and_goes_on(config, make_shard, tmp_path):
    """In a process of its own: SIGTERM saves and ends with 130; export and evaluate take what is there."""
    shard, run = make_shard("a"), tmp_path / "run"
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = ["train", "--data", str(shard), "-o", str(run), "--config", str(tmp_path / "config.json")]
    arguments += ["--steps", "100000", "--batch-tokens", "512", "--threads", "1"]
    package = Path(__file__).parents[3] / "engine"
    environment = {**os.environ, "PYTHONPATH": str(package)}
    process = subprocess.Popen(
        [sys.executable, "-m", "kodkod_engine.training", *arguments], env=environment, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"goes on" in told
    steps = torch.load(run / "state.pt", weights_only=True)["counters"][0]
    assert steps >= 10
    exported = CliRunner().invoke(main, ["export", str(run), str(tmp_path / "out")])
    assert exported.exit_code == 0, exported.output
    assert load_model(tmp_path / "out").mtp is not None
    measured = CliRunner().invoke(main, ["evaluate", str(tmp_path / "out"), str(shard), "--max-documents", "5"])
    assert json.loads(measured.output)["loss"] > 0


def test_bad_input_is_one_line(tmp_path):
    done = CliRunner().invoke(main, ["train", "--data", "none", "-o", str(tmp_path / "run"), "--steps", "1"])
    assert done.exit_code == 4
    assert done.output == "error: none: no such file; give a shard of training documents\n"
    done = CliRunner().invoke(main, ["train", "--data", "none:x", "-o", str(tmp_path / "run"), "--steps", "1"])
    assert done.exit_code == 2
    assert done.output.count("\n") == 1


def test_signals_are_left_alone_in_other_threads(config, make_shard, tmp_path):
    results = []
    sources = [Source(make_shard("a"))]
    thread = threading.Thread(target=lambda: results.append(train(config, sources, options(tmp_path / "run", steps=2))))
    thread.start()
    thread.join()
    assert results[0].steps == 2


def test_nano_is_a_model_the_engine_knows_at_its_size(tmp_path):
    values = json.loads(NANO_CONFIG.read_text())
    nano = begin_model(values, TrainOptions(output=tmp_path, steps=1))
    folder = export(nano, values, tmp_path / "checkpoint")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 23.5e6
    assert load_trainable(folder).config == nano.config
    moduli = nano.config.ngram.moduli
    assert all(0.1 < rows / values["vocab_size"] % 1 < 0.9 for rows in moduli)


def test_freed_memory_is_kept():
    assert {name.startswith("MALLOC_") for name in MALLOC} == {True}
