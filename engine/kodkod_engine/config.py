"""How an engine is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from kodkod_engine.api import Speculation
from kodkod_engine.backends.vllm_config import VllmConfig

_Dtype = Literal["float32", "bfloat16", "float16"]
_Tables = Literal["auto", "resident", "pinned", "mapped"]
_Weights = Literal["auto", "resident", "mapped"]
_Precision = Literal["bf16", "fp8", "int8", "int4"]
_NAMED = {
    "dtype": (None, *get_args(_Dtype)),
    "ngram_tables": get_args(_Tables),
    "weights": get_args(_Weights),
    "precision": (None, *get_args(_Precision)),
}

HOST_STEP_TOKENS = 512
DEVICE_STEP_TOKENS = 4096
USUAL_CACHED_TOKENS = 32_768
MAX_THREADS, MAX_BLOCK_SIZE = 1024, 4096
"""Beyond, the thread library ends the process, and tensors of a cache have no size any more."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Options of `load_engine`; the defaults suit one person on one machine."""

    dtype: _Dtype | None = None
    """Of weights and activations; None takes what the checkpoint stores."""
    device: str = "auto"
    """Where the weights are and the steps are computed, as torch names it; auto takes what the plan says is quickest,
    the processor for a small model."""
    threads: int | None = None
    """Processor threads of a step; None leaves torch's choice."""
    max_cached_tokens: int | None = None
    """Tokens the KV cache holds over all sequences and cached prefixes; 32 KiB each for LongCat-Flash-Lite in bf16.
    None: `USUAL_CACHED_TOKENS`, more where a GPU has room, fewer where memory lacks."""
    block_size: int = 16
    """Token slots per block."""
    max_step_tokens: int | None = None
    """Tokens computed in one step at most; longer prompts are cut into chunks. None: see `step_tokens`."""
    max_running: int = 32
    """Sequences that decode side by side; never more than `step_tokens`."""
    mtp: bool | None = None
    """Load the draft block; None does when the checkpoint has one."""
    speculation: Speculation = Speculation.AUTO
    """How tokens are guessed ahead; a request may ask for another way."""
    steps_per_visit: int | None = None
    """Tokens that free-running answers may get before the engine looks again, at most: see `core/visits.py`. None: some
    where a CUDA device computes, for it waits while the engine looks; one on a processor, which does not."""
    ngram_tables: _Tables = "auto"
    """Tables with the weights, in host memory that a CUDA device reads, or in the checkpoint's files behind a cache."""
    precision: _Precision | None = None
    """Of experts, attention, dense networks and head; None keeps what the checkpoint has where that fits, and takes
    what the plan says where it does not."""
    weights: _Weights = "auto"
    """Weights in memory, or left in the files of a converted checkpoint, whose pages may come and go."""
    pinned_expert_layers: int | None = None
    """Layers, the last ones, whose packed experts stay in host memory that a CUDA device reads in place; None: as many
    as it has no room for."""
    expanded_bytes: int | None = None
    """What keys and values of the conversation at hand may take, kept so that no turn rebuilds them: 573 KB a token of
    LongCat-Flash-Lite on a processor, 459 KB on a GPU. None: part of what memory nothing else needs; 0 keeps none."""
    kv_folder: str | None = None
    """Where the KV of prefixes is kept over restarts, for all models; None keeps none, as does a block size
    of which 16 is no multiple."""
    kv_folder_bytes: int = 8 << 30
    """What is kept there at most; 0 keeps nothing. A token of LongCat-Flash-Lite takes 32 KiB in bf16, 64 in fp32."""
    vllm: VllmConfig = field(default_factory=VllmConfig)
    """How vLLM is set up, where a model is opened with it; nothing of the above counts then."""

    def __post_init__(self) -> None:
        # A name is as good: it comes from a command line or a settings file.
        object.__setattr__(self, "speculation", Speculation(self.speculation))
        for name, known in _NAMED.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(filter(None, known))}, not {getattr(self, name)}")
        for name in ("max_cached_tokens", "block_size", "max_step_tokens", "max_running", "steps_per_visit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        for name in ("pinned_expert_layers", "expanded_bytes", "kv_folder_bytes"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name, highest in (("threads", MAX_THREADS), ("block_size", MAX_BLOCK_SIZE)):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= highest:
                raise ValueError(f"{name} must be from 1 to {highest:,}, not {value:,}")

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to the plan (`placement.settling.settled`)."""
        is_open = "auto" in (self.device, self.ngram_tables, self.weights)
        return not is_open and None not in (self.pinned_expert_layers, self.max_cached_tokens)

    @property
    def cached_tokens(self) -> int:
        """`max_cached_tokens`, or as many as is usual."""
        return self.max_cached_tokens or USUAL_CACHED_TOKENS

    @property
    def step_tokens(self) -> int:
        """`max_step_tokens`, or what suits the device: a long step reads every expert once, which a GPU feels most."""
        return self.max_step_tokens or (DEVICE_STEP_TOKENS if self.device.startswith("cuda") else HOST_STEP_TOKENS)
