"""Values that are written as JSON, held to their schema by llguidance."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import ValueState
from kodkod_engine.constraints.token_mask import TokenMask, num_words
from kodkod_engine.constraints.vocabulary import MAX_LISTED

_OPTIONS: Any = {"whitespace_pattern": r"\n? {0,16}"}
"""As `json.dumps` writes with and without indentation. A model could go on with white space for ever otherwise."""

KEPT_EVERY = 64
"""Tokens from one place with a matcher of its own to the next."""

_MAX_CAUSE_CHARS = 200

_lock = threading.Lock()
"""Held while a compiled grammar is copied: matchers are not safe from several threads at once."""


class JsonValue:
    """JSON texts that a schema admits. Objects have their properties in the order of the schema."""

    def __init__(self, tokenizer: Tokenizer, schema: Mapping[str, Any]) -> None:
        """Compile; the same schema is compiled once.

        Raises:
            ValueError: the library refuses the schema; the message says why.
        """
        self._tokenizer = tokenizer
        self._matcher = _compiled(tokenizer, json.dumps(schema))

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        with _lock:
            return _JsonState(self._tokenizer, self._matcher.deep_copy())


class _JsonState:
    """See `ValueState`.

    A matcher remembers all that it has read, so one for each token of a long text would be the square of its length:
    gigabytes for some thousand tokens. A state's matcher goes on to whoever comes behind it. Only every
    `KEPT_EVERY`th place keeps its own; from there others are read again, as when a draft was rejected.
    """

    def __init__(
        self, tokenizer: Tokenizer, matcher: LLMatcher, before: _JsonState | None = None, token_id: int = -1
    ) -> None:
        """`before`, `token_id`: what leads here; neither for the place before the first token."""
        self._tokenizer = tokenizer
        self._place: int = 0 if before is None else before._place + 1
        self._is_kept = self._place % KEPT_EVERY == 0
        self._matcher: LLMatcher | None = matcher
        self._before, self._token_id = None if self._is_kept else before, token_id
        self.may_end: bool = matcher.is_accepting()
        self.allowed: Collection[int] = (
            frozenset() if matcher.is_stopped() else _inside(tokenizer, matcher.compute_bitmask())
        )

    def after(self, token_id: int) -> ValueState:
        matcher = self._matcher_to_go_on()
        matcher.consume_token(token_id)
        if matcher.is_error():
            raise ValueError(f"llguidance gave up ({_one_line(matcher.get_error())})")
        return _JsonState(self._tokenizer, matcher, self, token_id)

    def _matcher_to_go_on(self) -> LLMatcher:
        if self._matcher is None:
            return self._read_again()
        if self._is_kept:
            return self._matcher.deep_copy()
        matcher, self._matcher = self._matcher, None
        return matcher

    def _read_again(self) -> LLMatcher:
        ids: list[int] = []
        state = self
        while state._before is not None:
            ids.append(state._token_id)
            state = state._before
        assert state._matcher is not None
        matcher = state._matcher.deep_copy()
        for token_id in reversed(ids):
            matcher.consume_token(token_id)
        return matcher


class _Tokens:
    """A tokenizer in the form that llguidance reads."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id = tokenizer.eos_id
        self.tokens = [tokenizer.bytes_of(token_id) for token_id in range(tokenizer.vocab_size)]
        self.special_token_ids = sorted(tokenizer.control_ids)
        self._tokenizer = tokenizer

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode_text(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


@lru_cache(maxsize=4)
def _tokens(tokenizer: Tokenizer) -> LLTokenizer:
    return LLTokenizer(_Tokens(tokenizer))  # type: ignore[arg-type]  # what it reads of a `TokenizerWrapper` is there


@lru_cache(maxsize=64)
def _inside(tokenizer: Tokenizer, bitmask: bytes) -> Collection[int]:
    """What the library allows within a value; one set for all places that are alike, as those of a string are."""
    # It marks EOS where the value may end; here the value's closing tag says so.
    words = np.frombuffer(bitmask, np.uint32)[: num_words(tokenizer.vocab_size)]
    inside = TokenMask(words).without(_control_tokens(tokenizer))
    return frozenset(inside) if len(inside) <= MAX_LISTED else inside


@lru_cache(maxsize=4)
def _control_tokens(tokenizer: Tokenizer) -> TokenMask:
    return TokenMask.of(tokenizer.control_ids, tokenizer.vocab_size)


@lru_cache(maxsize=256)
def _compiled(tokenizer: Tokenizer, schema: str) -> LLMatcher:
    grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS)
    matcher = LLMatcher(_tokens(tokenizer), grammar, log_level=0)
    if matcher.is_error():
        raise ValueError(f"llguidance refuses its schema ({_one_line(matcher.get_error())})")
    return matcher


def _one_line(text: str) -> str:
    """The cause comes first; the whole grammar may come behind it."""
    return " ".join(text.split())[:_MAX_CAUSE_CHARS]
