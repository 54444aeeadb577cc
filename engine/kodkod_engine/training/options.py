"""How a training run is set up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """The defaults train the bundled model on two processor cores. One of `minutes` and `steps` ends the run."""

    output: Path
    """Folder of the run: config.json, state.pt and metrics.jsonl. A run found there goes on."""
    minutes: float | None = None
    """Of training in all, stops between not counted; the learning rate reaches zero with them."""
    steps: int | None = None
    """Instead of minutes: a run that gives the same weights every time."""
    init: Path | None = None
    """A checkpoint folder of the same sizes to begin from; None begins from random weights."""
    batch_tokens: int = 8192
    """Of a step, padding included."""
    max_document_tokens: int = 2048
    """Longer documents are cut into several."""
    learning_rate: float = 4e-3
    table_learning_rate: float = 2e-2
    """Of the N-gram rows."""
    weight_decay: float = 0.01
    """Of the matrices."""
    warmup_steps: int = 50
    max_grad_norm: float = 1.0
    muon: bool = True
    """Orthogonalised momentum for the matrices; False gives all to AdamW."""
    amplification: float | None = None
    """Factor on the input embedding; None chooses one that brings it to the size of a block's input, 1 is plain."""
    real_experts_per_token: float | None = None
    """Wanted on average; None takes the real experts' share of all."""
    balance_rate: float = 0.02
    """How fast the selection bias follows the load."""
    mtp: bool = True
    """Whether there is a draft block."""
    draft_factor: float = 0.1
    """Of the draft block's loss in the whole."""
    draft_share: float = 0.25
    """Part of the documents the draft block learns from."""
    seed: int = 0
    device: str = "cpu"
    """cpu or cuda."""
    bf16: bool | None = None
    """Products in bf16, weights in fp32; None does so on cuda alone."""
    threads: int | None = None
    """Processor threads; None leaves torch's choice."""
    compile: bool = False
    """Fuse element-wise work with torch.compile."""
    static: bool | None = None
    """Steps that never make the host wait for a GPU, their batches made ahead of time; None does so on cuda alone."""
    validation: tuple[Path, ...] = ()
    """Held-out shards of which the first `validation_documents` are predicted now and then."""
    validate_every_s: float = 30.0
    validation_documents: int = 200
    save_every_s: float = 180.0
    log_every_steps: int = 10

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("give either minutes or steps")
        for name in ("minutes", "steps", "batch_tokens", "max_document_tokens", "learning_rate", "log_every_steps"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0, not {value}")
