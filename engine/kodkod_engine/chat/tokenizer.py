"""Text to ids and back, over the `tokenizers` library.

Text given to `encode_text` is *data*: whatever it spells, no control token comes out of it. Control tokens enter a
prompt only by id, from `Tokenizer.special`. That is the defence against a file or a tool output that contains
`</longcat_s>` or a forged call.
"""

from __future__ import annotations

import codecs
import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as _Backend

from kodkod_engine.chat.byte_level import token_bytes
from kodkod_engine.chat.checkpoint_words import checkpoint_words
from kodkod_engine.chat.declare_block import OWN_WORDS, ToolWords
from kodkod_engine.chat.special_tokens import SpecialTokens
from kodkod_engine.chat.stop_strings import StopStrings
from kodkod_engine.chat.surrogates import without_lone_surrogates
from kodkod_engine.errors import CheckpointCorrupt, CheckpointMissing, UnknownArchitecture

__all__ = ["DetokenizerStream", "StopStrings", "Tokenizer"]

_CONTROL_NAME = re.compile(r"</?longcat_\w+>")


class Tokenizer:
    """One checkpoint's vocabulary. Immutable; safe to share between threads."""

    def __init__(self, description: str, words: ToolWords = OWN_WORDS) -> None:
        """Build from the text of a `tokenizer.json`, and the words of the checkpoint's template.

        Raises:
            CheckpointCorrupt: not a tokenizer, or an essential tag is not a single token.
            UnknownArchitecture: not a byte-level vocabulary.
        """
        self.fingerprint: str = hashlib.sha256(description.encode()).hexdigest()
        """Two tokenizers with the same fingerprint give the same ids."""
        self.words: ToolWords = words
        """In which tools are declared. They are no part of the fingerprint: ids mean the same whatever the words."""
        try:
            fields: dict[str, Any] = json.loads(description)
            backend = _Backend.from_str(json.dumps(_without_extras(fields)))
            self._data_encoder = _Backend.from_str(json.dumps(_as_data_encoder(fields)))
        except Exception as fault:  # the library raises a bare Exception for any malformed file
            raise CheckpointCorrupt(f"tokenizer.json cannot be read ({_one_line(fault)}); download it again") from fault
        if not _is_byte_level(fields.get("decoder")):
            raise UnknownArchitecture(
                "tokenizer.json has no byte-level decoder; only byte-level vocabularies are supported"
            )
        self._data_encoder.encode_special_tokens = True
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max(vocabulary.values()) + 1
        """Ids are in [0, vocab_size). A model's own vocabulary may be padded to more."""
        self._bytes: list[bytes] = [b""] * self.vocab_size
        for token, token_id in vocabulary.items():
            self._bytes[token_id] = token_bytes(token)
        control = {entry["content"] for entry in fields["added_tokens"] if _is_control(entry)}
        self.control_ids: frozenset[int] = frozenset(vocabulary[token] for token in control if token in vocabulary)
        """Ids that no text is ever encoded to: the LongCat tags and every other token declared special."""
        self._control_starts = frozenset(token[0] for token in control if token)

        def single_token_id(text: str) -> int | None:
            ids = backend.encode(text, add_special_tokens=False).ids
            return ids[0] if len(ids) == 1 and ids[0] in self.control_ids else None

        self.special: SpecialTokens = SpecialTokens.resolve(single_token_id)
        """The LongCat tags that are single tokens of this vocabulary."""

    @classmethod
    def from_folder(cls, folder: Path) -> Tokenizer:
        """Load the `tokenizer.json` of a checkpoint folder, and the words of its chat template.

        Raises:
            CheckpointMissing: there is none.
            CheckpointCorrupt: it cannot be read, or an essential tag is not a single token.
            UnknownArchitecture: not a byte-level vocabulary.
        """
        path = folder / "tokenizer.json"
        try:
            description = path.read_text(encoding="utf-8")
        except FileNotFoundError as fault:
            raise CheckpointMissing(f"{path} does not exist; give the folder of a complete checkpoint") from fault
        except (OSError, UnicodeDecodeError) as fault:
            raise CheckpointCorrupt(f"{path} cannot be read ({_one_line(fault)}); download it again") from fault
        return cls(description, checkpoint_words(folder))

    def with_words(self, words: ToolWords) -> Tokenizer:
        """The same vocabulary with other words for declaring tools."""
        other = copy.copy(self)
        other.words = words
        return other

    @property
    def eos_id(self) -> int:
        """The id that ends an assistant turn."""
        return self.special.eos_id

    def encode_text(self, text: str) -> list[int]:
        """Ids of `text` as data: no BOS, no EOS, and never a control token, whatever the text spells.

        Lone surrogates, which no UTF-8 text can hold, become U+FFFD.
        """
        text = without_lone_surrogates(text)
        ids = self._encode(text)
        if self.control_ids.isdisjoint(ids):
            return ids
        # Vocabularies that look whole words up (`ignore_merges`) reach a tag by its spelling: cut inside the spelling.
        for pieces in (self._cut_in_tags, list):
            ids = [token_id for piece in pieces(text) for token_id in self._encode(piece)]
            if self.control_ids.isdisjoint(ids):
                return ids
        raise CheckpointCorrupt(
            "tokenizer.json declares an ordinary character as a special token; use another checkpoint"
        )

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are not UTF-8 become U+FFFD, ids outside the vocabulary nothing.

        Args:
            ids: any ids, in order.
            skip_special: leave control tokens out; otherwise they appear by name.
        """
        return b"".join(self._pieces(ids, skip_special)).decode("utf-8", "replace")

    def stream(self, *, skip_special: bool = True) -> DetokenizerStream:
        """A new incremental decoder, for one sequence."""
        return DetokenizerStream(lambda ids: self._pieces(ids, skip_special))

    def bytes_of(self, token_id: int) -> bytes:
        """What one id of the vocabulary stands for: for most ids text, for some a part of a character."""
        return self._bytes[token_id]

    def _encode(self, text: str) -> list[int]:
        return self._data_encoder.encode(text, add_special_tokens=False).ids

    def _cut_in_tags(self, text: str) -> list[str]:
        starts = "".join(map(re.escape, sorted(self._control_starts)))
        return re.split(f"(?<=[{starts}])", text)

    def _pieces(self, ids: Iterable[int], skip_special: bool) -> Iterator[bytes]:
        for token_id in ids:
            if 0 <= token_id < self.vocab_size and not (skip_special and token_id in self.control_ids):
                yield self._bytes[token_id]


class DetokenizerStream:
    """Incremental decoding of one sequence, in time linear in its length.

    The joined output of every `push` and the final `flush` is `Tokenizer.decode` of all ids together.
    """

    def __init__(self, pieces: Callable[[Iterable[int]], Iterator[bytes]]) -> None:
        self._pieces = pieces
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Iterable[int]) -> str:
        """Take more ids; returns what became readable. A character whose bytes are not all there is held back."""
        return self._decoder.decode(b"".join(self._pieces(ids)))

    def flush(self) -> str:
        """What is held back, an unfinished character as U+FFFD. The stream may go on afterwards, from a clean state."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


def _is_control(added_token: dict[str, Any]) -> bool:
    return bool(added_token["special"]) or _CONTROL_NAME.fullmatch(added_token["content"]) is not None


def _without_extras(fields: dict[str, Any]) -> dict[str, Any]:
    """Without what a file may have switched on: cutting, padding, and the BOS or EOS a post-processor adds."""
    return {**fields, "truncation": None, "padding": None, "post_processor": None}


def _as_data_encoder(fields: dict[str, Any]) -> dict[str, Any]:
    """Every control token marked special, because `encode_special_tokens` spells out only those."""
    added_tokens = [{**entry, "special": _is_control(entry)} for entry in fields["added_tokens"]]
    return {**_without_extras(fields), "added_tokens": added_tokens}


def _is_byte_level(decoder: dict[str, Any] | None) -> bool:
    if decoder is None:
        return False
    if decoder["type"] == "Sequence":
        return [part["type"] for part in decoder["decoders"]] == ["ByteLevel"]
    return bool(decoder["type"] == "ByteLevel")


def _one_line(fault: Exception) -> str:
    return " ".join(str(fault).split())
