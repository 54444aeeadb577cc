"""vLLM's CPU build for the conformance suite: a tiny random Llama, and the probes that it cannot keep, with why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kodkod_engine.backends.vllm import VllmEngine, load_vllm
from kodkod_engine.backends.vllm_config import VllmConfig
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.config import EngineConfig

BLOCK_SIZE = 32
"""The one that vLLM's attention on a CPU takes."""
VOCAB_SIZE, EOS_ID = 320, 2

_BLOCKS = "vLLM reuses prefixes in whole blocks, here of 32 tokens"
_ROOM = "vLLM does not start with a cache smaller than one context"
GAPS = {
    "test_a_full_cache_is_the_length_as_well": _ROOM,
    "test_cancelled_in_the_middle_of_a_long_prompt": _BLOCKS,
    "test_in_a_cache_too_small_for_all_they_wait_for_one_another": _ROOM,
    "test_what_cannot_be_served_is_refused_at_once[vllm-options5-prompt5-PromptTooLong]": _ROOM,
    "test_usage_counts_tokens_and_seconds": _BLOCKS,
    "test_twenty_new_tokens_on_a_prefix_of_two_thousand_cost_twenty": _BLOCKS,
    "test_a_second_turn_costs_its_new_tokens_and_the_last_generated_one": _BLOCKS,
    "test_a_fork_of_a_live_stream_shares_to_the_token": _BLOCKS,
    "test_a_fork_of_a_finished_stream_shares_to_the_token": _BLOCKS,
}
"""Probes of the conformance suite by name, with or without their parameters."""


def write_llama(folder: Path, max_context_tokens: int) -> None:
    """A random checkpoint whose answers wander."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "head_dim": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False}
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=max_context_tokens,
        bos_token_id=1,
        eos_token_id=EOS_ID,
        initializer_range=0.3,
        **sizes,
        **heads,
    )
    LlamaForCausalLM(config).to(torch.float32).save_pretrained(folder)


def make(folder: Path, max_context_tokens: int, with_tokenizer: bool, config: EngineConfig) -> VllmEngine:
    """An engine with the room and the limits asked for, as far as blocks of 32 tokens let it."""
    checkpoint = folder / f"llama-{max_context_tokens}-{with_tokenizer}"
    if not checkpoint.exists():
        write_llama(checkpoint, max_context_tokens)
        if with_tokenizer:
            write_byte_tokenizer(checkpoint)
    max_running = min(config.max_running, config.max_step_tokens)
    arguments: dict[str, Any] = {
        "block_size": BLOCK_SIZE,
        "num_gpu_blocks_override": 1 + -(-config.max_cached_tokens // BLOCK_SIZE),
        "max_num_batched_tokens": config.max_step_tokens,
        "max_num_seqs": max_running,
        "enable_chunked_prefill": True,
        "kv_cache_memory_bytes": 2**28,
    }
    return load_vllm(checkpoint, VllmConfig(dtype="float32", enforce_eager=True, arguments=arguments))
