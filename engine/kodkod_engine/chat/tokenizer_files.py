"""The files of a byte-level tokenizer, as checkpoints have them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kodkod_engine.chat.special_tokens import Tag

BYTE_LEVEL: dict[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": False,
    "use_regex": False,
}
"""How text becomes the byte-level alphabet, and comes back from it."""


def special_entries(names: Sequence[str]) -> list[dict[str, Any]]:
    """Tokens that no text is split into, with the ids 0, 1, 2, ..."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": token_id, "content": name, **flags, "special": True} for token_id, name in enumerate(names)]


def as_text(fields: dict[str, Any]) -> str:
    """As a file holds it."""
    return json.dumps(fields, ensure_ascii=False, indent=1) + "\n"


def write_tokenizer(folder: Path, description: str) -> None:
    """Put `tokenizer.json`, whose text is the description, and `tokenizer_config.json` into an existing folder."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": Tag.BOS.value,
        "eos_token": Tag.EOS.value,
        "pad_token": Tag.PAD.value,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer.json").write_text(description, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(as_text(config), encoding="utf-8")
