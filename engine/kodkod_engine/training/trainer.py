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
from torch import Tensor

from kodkod_engine.errors import CheckpointMissing
from kodkod_engine.models.checkpoint import Checkpoint
from kodkod_engine.models.config import load_config
from kodkod_engine.training.batches import Mixture, Source
from kodkod_engine.training.evaluation import evaluate
from kodkod_engine.training.expert_balance import default_real_experts, load_figures, rebalance
from kodkod_engine.training.export import fill
from kodkod_engine.training.initial import default_amplification, initialise
from kodkod_engine.training.losses import Lesson, StepLoss, step_loss
from kodkod_engine.training.model import TrainableModel
from kodkod_engine.training.optimizers import Optimizers
from kodkod_engine.training.options import TrainOptions
from kodkod_engine.training.run_state import load_state, save_state, stop_on_signals
from kodkod_engine.training.supply import AheadOfTime, OnDemand, Supply

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
        try:
            while not stop.is_set() and trainer.progress < 1:
                trainer.step()
        finally:
            trainer.supply.close()
        trainer.save()
    return trainer.metrics()


class Trainer:
    """One run, step by step."""

    def __init__(self, config: Mapping[str, Any], sources: Sequence[Source], options: TrainOptions) -> None:
        self.options = options
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self.device = torch.device(options.device)
        _choose_kernels(self.device)
        self.model = begin_model(config, options).to(self.device)
        self.model.is_static = options.static if options.static is not None else self.device.type == "cuda"
        self.amplification = _amplification(self.model, options)
        self.optimizers = Optimizers(
            self.model,
            learning_rate=options.learning_rate,
            table_learning_rate=options.table_learning_rate,
            weight_decay=options.weight_decay,
            amplification=self.amplification,
            use_muon=options.muon,
        )
        mixture = Mixture(
            sources,
            vocab_size=self.model.config.vocab_size,
            batch_tokens=options.batch_tokens,
            max_document_tokens=options.max_document_tokens,
            seed=options.seed,
        )
        self.supply = self._supply(mixture)
        self.real_experts = options.real_experts_per_token or default_real_experts(self.model)
        self.steps, self.tokens, self.elapsed_s = 0, 0, 0.0
        # Main and draft loss, running means. On the device: to read one is to wait for the step.
        self._means = torch.zeros(2, dtype=torch.float64, device=self.device)
        self._resume()
        self._last_save_s = self._last_validation_s = self._logged_s = self.elapsed_s
        self._logged_tokens = self.tokens
        if options.compile:
            self.model.compile_blocks()

    def _supply(self, mixture: Mixture) -> Supply:
        share = self.options.draft_share if self.model.mtp is not None and self.options.draft_factor > 0 else 0.0
        inner = OnDemand(mixture, self._progress_at, draft_share=share, seed=self.options.seed)
        return AheadOfTime(inner, pin=self.device.type == "cuda") if self.model.is_static else inner

    @property
    def progress(self) -> float:
        """Part of the budget that is used up, 0 to 1."""
        return self._progress_at(self.steps)

    def _progress_at(self, steps: int) -> float:
        if self.options.steps is not None:
            return min(1.0, steps / self.options.steps)
        assert self.options.minutes is not None
        return min(1.0, self.elapsed_s / (60 * self.options.minutes))

    @property
    def loss(self) -> float:
        """Running mean, nats per unit of weight."""
        return float(self._means[0])

    @property
    def draft_loss(self) -> float:
        """The same of the draft block."""
        return float(self._means[1])

    def step(self) -> None:
        """One batch: forward, backward, update, and now and then a line, a look at held-out documents and a save."""
        started_s = time.monotonic()
        lesson = self.supply.next().to(self.device)
        losses = self._loss_of(lesson)
        losses.total.backward()
        warmup = min(1.0, (self.steps + 1) / self.options.warmup_steps) if self.options.warmup_steps else 1.0
        norm = self.optimizers.step(warmup * (1 - self.progress), self.options.max_grad_norm)
        rate = self.options.balance_rate
        rebalance(self.model, losses.choices, real_experts_per_token=self.real_experts, rate=rate)
        self.steps += 1
        self.tokens += lesson.num_tokens
        self._remember(losses)
        self._now_and_then(norm, losses, started_s)

    def _now_and_then(self, norm: Tensor, losses: StepLoss, started_s: float) -> None:
        before_s = self.elapsed_s
        if self.steps % self.options.log_every_steps == 0:
            float(norm)  # waits for the device, so that the time is the work's
            self.elapsed_s = before_s + time.monotonic() - started_s
            self._log(float(norm), losses)
        if before_s - self._last_validation_s > self.options.validate_every_s:
            self._last_validation_s = before_s
            for shard in self.options.validation:
                self._validate(shard)
        self.elapsed_s = before_s + time.monotonic() - started_s
        if self.elapsed_s - self._last_save_s > self.options.save_every_s:
            self.save()

    def _loss_of(self, lesson: Lesson) -> StepLoss:
        with self._precision():
            return step_loss(self.model, lesson, draft_factor=self.options.draft_factor)

    def _precision(self) -> torch.autocast:
        bf16 = self.options.bf16 if self.options.bf16 is not None else self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def _remember(self, losses: StepLoss) -> None:
        # A plain mean over the first steps, a running one later.
        memory = min(LOSS_MEMORY, 1 - 1 / self.steps)
        self._means.mul_(memory).add_(torch.stack([losses.main, losses.draft]), alpha=1 - memory)

    def metrics(self) -> RunMetrics:
        """How far the run is."""
        is_finished = self.progress >= 1
        return RunMetrics(self.steps, self.tokens, self.elapsed_s, self.loss, self.draft_loss, is_finished)

    def _log(self, norm: float, losses: StepLoss) -> None:
        tokens_per_s = (self.tokens - self._logged_tokens) / max(1e-9, self.elapsed_s - self._logged_s)
        self._logged_tokens, self._logged_s = self.tokens, self.elapsed_s
        self._write({
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
        })  # fmt: skip
        left_s = self.elapsed_s * (1 / max(self.progress, 1e-9) - 1)
        line = (
            f"step {self.steps}  loss {self.loss:.3f}  draft {self.draft_loss:.3f}  "
            f"{tokens_per_s:,.0f} tokens/s  {left_s / 60:.1f} min left"
        )
        print(f"\r{line}   ", end="" if self.progress < 1 else "\n", file=sys.stderr, flush=True)

    def _validate(self, shard: Path) -> None:
        with self._precision():
            figures = evaluate(self.model, shard, max_documents=self.options.validation_documents)
        decided = figures.by_weight[max(figures.by_weight)].told() if figures.by_weight else {}
        told = {"loss": figures.loss, **{f"decided_{name}": value for name, value in decided.items()}}
        self._write({"validated_step": self.steps, **{f"{shard.stem}_{name}": value for name, value in told.items()}})
        line = "  ".join(f"{name} {value:.4g}" for name, value in told.items())
        print(f"\nstep {self.steps}  {shard.stem}: {line}", file=sys.stderr, flush=True)

    def _write(self, figures: Mapping[str, float]) -> None:
        with (self.options.output / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: round(value, 5) for key, value in figures.items()}) + "\n")

    def save(self) -> None:
        """Write the whole state."""
        state = {
            "model": self.model.state_dict(),
            "amplification": self.amplification,
            "optimizers": self.optimizers.state_dict(),
            "supply": self.supply.state_dict(),
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
        self.supply.load_state_dict(state["supply"])
        self.steps, self.tokens, self.elapsed_s, *means = state["counters"]
        self._means.copy_(torch.tensor(means, dtype=torch.float64))


def _choose_kernels(device: torch.device) -> None:
    if device.type == "cuda":
        # cuDNN's attention makes a plan for every new shape, and every batch has its own.
        torch.backends.cuda.enable_cudnn_sdp(False)


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
