"""What this server generated, to be known again when a client sends it back.

A client sends messages; what was generated is tokens, and the text of tokens may be encoded to other tokens. So each
answer is remembered under the prompt it followed and under what the client saw of it. A message that is sent back
after the same prompt, and says the same, stands for the very ids that were generated; the engine has those cached.
A message that was changed, or follows something that was, is rendered from what it says.
"""

from __future__ import annotations

import hashlib
import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from kodkod_engine.chat.declare_block import tools_pieces
from kodkod_engine.chat.special_tokens import Piece, Tag
from kodkod_engine.chat.template import assistant_pieces, encode_pieces, message_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, Message, ToolMessage, ToolSpec

MAX_REMEMBERED_TOKENS = 4_000_000
"""16 MB of ids; what was used the longest time ago is forgotten first."""
MAX_ENCODED_TOKENS = 4_000_000
"""Of messages whose ids are kept, for clients send all of them with every request."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be continued."""

    token_ids: tuple[int, ...]
    digest: bytes
    """Stands for the ids."""


class GeneratedTurns:
    """Turns by the prompt they followed and what they say. Safe to use from several threads."""

    def __init__(self, max_tokens: int = MAX_REMEMBERED_TOKENS) -> None:
        self._turns = _TokenStore(max_tokens)

    def remember(self, prompt: Prompt, message: AssistantMessage, token_ids: Sequence[int]) -> None:
        """Keep a turn.

        Args:
            prompt: which it followed.
            message: what the client saw of it.
            token_ids: of the whole turn, the one that ends it among them.
        """
        for key in (_said(message), _said(message.model_copy(update={"reasoning": ""}))):
            self._turns.put(prompt.digest + key, token_ids)

    def recall(self, digest: bytes, message: AssistantMessage) -> array[int] | None:
        """The ids of the turn that followed this prompt and says this; None when there was none.

        Clients seldom send reasoning back; a message without any is known by the rest.
        """
        return self._turns.get(digest + _said(message))


class PromptBuilder:
    """Makes prompts of conversations."""

    def __init__(self, tokenizer: Tokenizer, turns: GeneratedTurns) -> None:
        self._tokenizer = tokenizer
        self._turns = turns
        self._encoded = _TokenStore(MAX_ENCODED_TOKENS)

    def build(self, messages: Sequence[Message], tools: Sequence[ToolSpec]) -> Prompt:
        """The ids of a conversation in which the model is to speak next."""
        ids = _Growing()
        ids.add(self._encode(tools_pieces(tools, self._tokenizer.words)))
        for before, message in pairwise((None, *messages)):
            assert message is not None
            if isinstance(message, AssistantMessage):
                self._add_turn(ids, message)
            else:
                ids.add(self._encode(message_pieces(message, after_tool=isinstance(before, ToolMessage))))
        ids.add(self._encode([Tag.ASSISTANT]))
        return Prompt(tuple(ids.ids), ids.digest())

    def _add_turn(self, ids: _Growing, message: AssistantMessage) -> None:
        ids.add(self._encode([Tag.ASSISTANT]))
        generated = self._turns.recall(ids.digest(), message)
        ids.add(self._encode([*assistant_pieces(message), Tag.EOS]) if generated is None else generated)

    def _encode(self, pieces: Sequence[Piece]) -> array[int]:
        """Ids of pieces; each message is encoded once."""
        key = _hash(json.dumps([[isinstance(piece, Tag), piece] for piece in pieces]).encode())
        found = self._encoded.get(key)
        return self._encoded.put(key, encode_pieces(self._tokenizer, pieces)) if found is None else found


class _Growing:
    """Ids, and a digest of all of them at any point."""

    def __init__(self) -> None:
        self.ids: array[int] = array("i")
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, ids: array[int]) -> None:
        self.ids.extend(ids)
        self._hash.update(ids.tobytes())

    def digest(self) -> bytes:
        return self._hash.digest()


class _TokenStore:
    """Ids by key, up to so many in all."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._kept: OrderedDict[bytes, array[int]] = OrderedDict()
        self._num_tokens = 0
        self._lock = threading.Lock()

    def get(self, key: bytes) -> array[int] | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: bytes, token_ids: Sequence[int]) -> array[int]:
        kept = array("i", token_ids)
        with self._lock:
            self._num_tokens += len(kept) - len(self._kept.pop(key, ()))
            self._kept[key] = kept
            while self._num_tokens > self._max_tokens and len(self._kept) > 1:
                self._num_tokens -= len(self._kept.popitem(last=False)[1])
        return kept


def _said(message: AssistantMessage) -> bytes:
    """What a message says, whatever the ids of its calls and the order of their arguments."""
    calls = [[call.name, call.raw if call.fault else dict(call.arguments)] for call in message.calls]
    return _hash(json.dumps([message.text, message.reasoning, calls], sort_keys=True).encode())


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
