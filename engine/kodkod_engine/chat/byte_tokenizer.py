"""A tokenizer with one token per byte and LongCat's tags, for random checkpoints in tests and demos.

Any text round-trips, and no training is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kodkod_engine.chat.byte_level import CHARACTERS
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.tokenizer_files import BYTE_LEVEL, as_text, special_entries, write_tokenizer

RESERVED = "<longcat_unk>"
"""Id 0: no text is encoded to it. It keeps BOS, EOS and PAD at 1, 2 and 3, as in the published model."""

NAMED: tuple[str, ...] = (RESERVED, *(tag.value for tag in Tag))
"""Entry i has id i; the 256 bytes follow."""


def write_byte_tokenizer(folder: Path) -> int:
    """Write `tokenizer.json` and `tokenizer_config.json` into an existing folder; returns the vocabulary size."""
    vocabulary = {token: token_id for token_id, token in enumerate((*NAMED, *CHARACTERS))}
    fields: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special_entries(NAMED),
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": _model_without_merges(vocabulary),
    }
    write_tokenizer(folder, as_text(fields))
    return len(vocabulary)


def _model_without_merges(vocabulary: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": [],
    }
