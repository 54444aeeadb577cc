"""The training loop: batches in, weights and a log of figures out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kodkod_engine.errors import CheckpointMissing
from kodkod_engine.models.checkpoint import Checkpoint
from kodkod_engine.models.config import load_config
from kodkod_engine.training.batches import Batch, Mixture, Source
from kodkod_engine.training.expert_balance import default_real_experts, load_figures, rebalance
from kodkod_engine.training.export import fill
from kodkod_engine.training.initial import default_amplification, initialise
from kodkod_engine.training.losses import StepLoss, step_loss
from kodkod_engine.training.model import TrainableModel
from kodkod_engine.training.optimizers import Optimizers
from kodkod_engine.training.options import TrainOptions
from kodkod_engine.training.run_state import load_state, save_state, stop_on_signals

METRICS_NAME = "metrics.jsonl"
LOSS_MEMORY = 0.98
"""Of the running mean that is shown."""


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """How far a run is."""

    steps: int
    tokens: int
    """Trained on, padding not counted."""
    elapsed_s: float
    """Of training."""
    loss: float
    """Running mean, nats per unit of weight."""
    draft_loss: float
    is_finished: bool
    """False when a signal ended it early."""


def train(config: Mapping[str, Any], sources: Sequence[Source], options: TrainOptions) -> RunMetrics:
    """Train until the budget is used up or a signal asks to stop; the state is saved either way.

    Args:
        config: the keys of a config.json.
        sources: what to train on.

    Raises:
        CheckpointError: `config`, `options.init` or the state found in `options.output` cannot be used.
        ShardFault, ValueError: a source cannot be used.
    """
    with stop_on_signals() as stop:
        trainer = Trainer(config, sources, options)
        while not stop.is_set() and trainer.progress < 1:
            trainer.step()
        trainer.save()
    return trainer.metrics()


class Trainer:
    """One run, step by step."""

    def __init__(self, config: Mapping[str, Any], sources: Sequence[Source], options: TrainOptions) -> None:
        self.options = options
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.device = torch.device(options.device)
        self.model = begin_model(config, options).to(self.device)
        self.amplification = _amplification(self.model, options)
        self.optimizers = Optimizers(
            self.model,
            learning_rate=options.learning_rate,
            table_learning_rate=options.table_learning_rate,
            weight_decay=options.weight_decay,
            amplification=self.amplification,
            use_muon=options.muon,
        )
        self.mixture = Mixture(
            sources,
            vocab_size=self.model.config.vocab_size,
            batch_tokens=options.batch_tokens,
            max_document_tokens=options.max_document_tokens,
            seed=options.seed,
        )
        self.generator = torch.Generator().manual_seed(options.seed)
        self.real_experts = options.real_experts_per_token or default_real_experts(self.model)
        self.steps, self.tokens, self.elapsed_s = 0, 0, 0.0
        self.loss, self.draft_loss = 0.0, 0.0
        self._resume()
        self._last_save_s = self.elapsed_s
        if options.compile:
            self.model.compile_blocks()

    @property
    def progress(self) -> float:
        """Part of the budget that is used up, 0 to 1."""
        if self.options.steps is not None:
            return min(1.0, self.steps / self.options.steps)
        assert self.options.minutes is not None
        return min(1.0, self.elapsed_s / (60 * self.options.minutes))

    def step(self) -> None:
        """One batch: forward, backward, update, and now and then a line and a save."""
        started_s = time.monotonic()
        batch = self.mixture.next_batch(self.progress).to(self.device)
        losses = self._loss_of(batch)
        losses.total.backward()
        warmup = min(1.0, (self.steps + 1) / self.options.warmup_steps) if self.options.warmup_steps else 1.0
        norm = self.optimizers.step(warmup * (1 - self.progress), self.options.max_grad_norm)
        rate = self.options.balance_rate
        rebalance(self.model, losses.choices, real_experts_per_token=self.real_experts, rate=rate)
        self.steps += 1
        self.tokens += batch.num_tokens
        self._remember(losses)
        took_s = time.monotonic() - started_s
        self.elapsed_s += took_s
        if self.steps % self.options.log_every_steps == 0:
            self._log(batch.num_tokens / took_s, float(norm), losses)
        if self.elapsed_s - self._last_save_s > self.options.save_every_s:
            self.save()

    def _loss_of(self, batch: Batch) -> StepLoss:
        bf16 = self.options.bf16 if self.options.bf16 is not None else self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return step_loss(
                self.model,
                batch,
                draft_factor=self.options.draft_factor,
                draft_share=self.options.draft_share,
                generator=self.generator,
            )

    def _remember(self, losses: StepLoss) -> None:
        # A plain mean over the first steps, a running one later.
        memory = min(LOSS_MEMORY, 1 - 1 / self.steps)
        self.loss = memory * self.loss + (1 - memory) * float(losses.main)
        self.draft_loss = memory * self.draft_loss + (1 - memory) * float(losses.draft)

    def metrics(self) -> RunMetrics:
        """How far the run is."""
        is_finished = self.progress >= 1
        return RunMetrics(self.steps, self.tokens, self.elapsed_s, self.loss, self.draft_loss, is_finished)

    def _log(self, tokens_per_s: float, norm: float, losses: StepLoss) -> None:
        figures = {
            "step": self.steps,
            "progress": self.progress,
            "elapsed_s": self.elapsed_s,
            "tokens": self.tokens,
            "tokens_per_s": tokens_per_s,
            "loss": self.loss,
            "step_loss": float(losses.main),
            "draft_loss": self.draft_loss,
            "grad_norm": norm,
            **load_figures(self.model, losses.choices),
        }
        with (self.options.output / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: round(value, 5) for key, value in figures.items()}) + "\n")
        left_s = self.elapsed_s * (1 / max(self.progress, 1e-9) - 1)
        line = (
            f"step {self.steps}  loss {self.loss:.3f}  draft {self.draft_loss:.3f}  "
            f"{self.tokens / self.elapsed_s:,.0f} tokens/s  {left_s / 60:.1f} min left"
        )
        print(f"\r{line}   ", end="" if self.progress < 1 else "\n", file=sys.stderr, flush=True)

    def save(self) -> None:
        """Write the whole state."""
        state = {
            "model": self.model.state_dict(),
            "amplification": self.amplification,
            "optimizers": self.optimizers.state_dict(),
            "mixture": self.mixture.state_dict(),
            "generator": self.generator.get_state(),
            "counters": [self.steps, self.tokens, self.elapsed_s, self.loss, self.draft_loss],
        }
        save_state(self.options.output, state)
        self._last_save_s = self.elapsed_s

    def _resume(self) -> None:
        state = load_state(self.options.output)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.mixture.load_state_dict(state["mixture"])
        self.generator.set_state(state["generator"])
        self.steps, self.tokens, self.elapsed_s, self.loss, self.draft_loss = state["counters"]


def begin_model(config: Mapping[str, Any], options: TrainOptions) -> TrainableModel:
    """The model a run begins with; its config.json is in the run's folder afterwards.

    Raises:
        CheckpointError: the config or `options.init` cannot be used.
    """
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "config.json").write_text(json.dumps(dict(config), indent=1) + "\n", encoding="utf-8")
    model = TrainableModel(load_config(options.output), with_mtp=options.mtp)
    if options.init is not None:
        fill(model, Checkpoint(options.init))
    else:
        initialise(model, amplification=_amplification(model, options), seed=options.seed)
    return model


def load_run(folder: Path) -> tuple[TrainableModel, dict[str, Any]]:
    """The model of a run as it was last saved, and its config.json.

    Raises:
        CheckpointError: there is no run, or its files are damaged.
    """
    config = load_config(folder)
    state = load_state(folder)
    if state is None:
        raise CheckpointMissing(f"{folder}: no state of a training run; train first")
    model = TrainableModel(config, with_mtp=any(name.startswith("mtp.") for name in state["model"]))
    model.load_state_dict(state["model"])
    values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return model, values


def _amplification(model: TrainableModel, options: TrainOptions) -> float:
    if options.amplification is not None:
        return options.amplification
    num_parts = 1 + (model.config.ngram.num_tables if model.config.ngram else 0)
    return default_amplification(model.config.hidden_size, num_parts)
