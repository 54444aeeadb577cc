"""Registers the corrected model in the place of vLLM's own."""

from __future__ import annotations

import inspect
from typing import Any

ARCHITECTURE = "LongcatFlashNgramForCausalLM"
CORRECTED = f"kodkod_engine.vllm_plugin.model:{ARCHITECTURE}"
_EXPECTED = {
    "__init__": ["self", "vllm_config", "model", "encoder_cache", "device"],
    "prepare_inputs": ["self", "input_batch", "req_states"],
    "_compute_oe_ids": ["self", "input_batch"],
}
"""Of vLLM's state: the methods that ours replaces, by their parameters."""


def register() -> None:
    """What vLLM calls in each of its processes, maybe more than once. A vLLM without the architecture is left alone."""
    from vllm import ModelRegistry

    if ARCHITECTURE in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, CORRECTED)  # by name: it is imported for this model alone


def misfit(module: Any) -> str | None:
    """What of vLLM's module is not as the corrected state needs it; None when all is."""
    state = getattr(module, "LongcatNgramModelState", None)
    if state is None:
        return "it has no LongcatNgramModelState"
    for name, wanted in _EXPECTED.items():
        method = getattr(state, name, None)
        if method is None or list(inspect.signature(method).parameters) != wanted:
            return f"its LongcatNgramModelState.{name} is another"
    return None


def require_sound(cause: str | None, *, speculates: bool) -> None:
    """Let a model pass whose state could be corrected, or that does not speculate.

    Raises:
        ValueError: it speculates, and its N-gram context would follow rejected drafts.
    """
    if cause is not None and speculates:
        raise ValueError(
            f"speculation would change what {ARCHITECTURE} says, and kodkod does not know this vLLM well enough to "
            f"mend it ({cause}); take speculative_config away"
        )
