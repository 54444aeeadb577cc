"""Shards made of shards: what teaches a small model most for its tokens.

`abridged` keeps of each dialogue what its edit is decided by: the suspects, the view of the faulty function, the edit.
`selected` keeps short dialogues whole. Both leave out documents with so much to decide that they would outweigh others.
`joined` keeps all, for those who need not count tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from kodkod_app.nano.dialogue import Weight
from kodkod_app.nano.shards import MAX_TOKENS
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.training.shards import Shard, read_shard, write_shard

MAX_ABRIDGED_TOKENS, MAX_ABRIDGED_DECISIONS = 420, 14
MAX_SELECTED_TOKENS, MAX_SELECTED_DECISIONS = 560, 40
"""Of a document; a decision is a token of the full weight."""
_SUSPECTS = "Run by the failing tests"
_LONG_VALUE, _LONG_VALUE_WEIGHT = 9, 15
"""Tokens with the end tag, percent: longer values are mostly copies of text and inserted statements."""

Ids = npt.NDArray[np.int32]
Weights = npt.NDArray[np.uint8]
Document = tuple[Ids, Weights]


@dataclass(frozen=True, slots=True)
class _Parts:
    """Of an abridged document, as bounds in the whole one."""

    suspects: slice
    """Up to the end of the result."""
    view: slice
    """The result."""
    edit: slice
    """The turn."""
    path: slice
    """The edit's, with its end tag."""


class _Finder:
    """Finds parts of documents by their special tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._special = tokenizer.special
        self._suspects = tokenizer.encode_text(_SUSPECTS)
        self._view, self._edit = (tokenizer.encode_text(f"{tool}\n") for tool in ("view", "edit"))

    def parts(self, ids: Ids, weights: Weights) -> _Parts | None:
        """None for a document without suspects, a view, or an edit that is learnt."""
        results = self._spans(ids, Tag.TOOL_RESPONSE, Tag.TOOL_RESPONSE_END)
        turns = self._spans(ids, Tag.ASSISTANT, Tag.EOS)
        edits = [n for n, turn in enumerate(turns) if self._calls(ids[turn], self._edit) and weights[turn].any()]
        last_edit = edits[-1] if edits else 0
        views = [n for n, turn in enumerate(turns[:last_edit]) if self._calls(ids[turn], self._view)]
        begin = _find(ids[results[0]], self._suspects) if results else None
        if begin is None or not views:
            return None
        suspects = slice(results[0].start + begin, results[0].stop)
        edit = turns[last_edit]
        path = self.values(ids[edit])[0]
        return _Parts(suspects, results[views[-1]], edit, path=slice(edit.start + path.start, edit.start + path.stop))

    def values(self, ids: Ids) -> list[slice]:
        """The arguments' values with their end tags."""
        return [slice(span.start + 1, span.stop) for span in self._spans(ids, Tag.ARG_VALUE, Tag.ARG_VALUE_END)]

    def _calls(self, ids: Ids, tool: Sequence[int]) -> bool:
        """Whether a turn, one call that is, calls this tool."""
        called: list[int] = ids[2 : 2 + len(tool)].tolist()
        return called == tool

    def _spans(self, ids: Ids, first: Tag, last: Tag) -> list[slice]:
        """From each `first` to its `last`, both included; one that the document ends in is none."""
        bounds = (np.flatnonzero(ids == self._special.id_of(tag)).tolist() for tag in (first, last))
        return [slice(start, stop + 1) for start, stop in zip(*bounds, strict=False)]


def abridged(
    shard: Shard,
    tokenizer: Tokenizer,
    max_tokens: int = MAX_ABRIDGED_TOKENS,
    max_decisions: int = MAX_ABRIDGED_DECISIONS,
) -> Iterator[Document]:
    """Documents cut to the suspects, the last view before the edit that is learnt, and the edit.

    The edit's path weighs little, as there is one file to choose from. Documents that lack a part or exceed a limit
    are left out.

    Args:
        shard: of whole dialogues.
        tokenizer: the one it was made with.
        max_tokens: of a document that was cut.
        max_decisions: tokens of the full weight in it.

    Yields:
        Ids [tokens] and weights [tokens].
    """
    finder = _Finder(tokenizer)
    for ids, weights in _documents(shard):
        parts = finder.parts(ids, weights)
        if parts is None:
            continue
        _weigh_at_most(weights[parts.path], Weight.SYNTAX)
        kept = np.r_[parts.suspects, parts.view, parts.edit]
        document = ids[kept], weights[kept]
        if _is_within(document, max_tokens, max_decisions):
            yield document


def selected(
    shard: Shard,
    tokenizer: Tokenizer,
    max_tokens: int = MAX_SELECTED_TOKENS,
    max_decisions: int = MAX_SELECTED_DECISIONS,
) -> Iterator[Document]:
    """Whole documents within the limits; long values weigh less, and count as no decisions.

    Args:
        shard: of whole dialogues.
        tokenizer: the one it was made with.
        max_tokens: of a document.
        max_decisions: tokens of the full weight in it.

    Yields:
        Ids [tokens] and weights [tokens].
    """
    finder = _Finder(tokenizer)
    for ids, weights in _documents(shard):
        for value in finder.values(ids):
            if value.stop - value.start > _LONG_VALUE:
                _weigh_at_most(weights[value], _LONG_VALUE_WEIGHT)
        if _is_within((ids, weights), max_tokens, max_decisions):
            yield ids, weights


def joined(shard: Shard, tokenizer: Tokenizer, max_tokens: int = MAX_TOKENS) -> Iterator[Document]:
    """Whole documents within the limit, as they are.

    Args:
        shard: of whole dialogues.
        tokenizer: the one it was made with.
        max_tokens: of a document.

    Yields:
        Ids [tokens] and weights [tokens].
    """
    del tokenizer
    return (document for document in _documents(shard) if document[0].size <= max_tokens)


def read_whole(path: Path, tokenizer: Tokenizer) -> Shard:
    """A shard that was made with this tokenizer.

    Raises:
        ShardFault: it cannot be read.
        ValueError: it was made with another one.
    """
    shard = read_shard(path, vocab_size=tokenizer.vocab_size)
    with safe_open(path, "np") as file:
        made_with = (file.metadata() or {}).get("tokenizer")
    if made_with != tokenizer.fingerprint:
        raise ValueError(f"{path}: made with another tokenizer; give the folder of its own")
    return shard


def write_derived(documents: Iterable[Document], path: Path, tokenizer: Tokenizer) -> tuple[int, int]:
    """Write documents in the order they come.

    Returns:
        How many, and their tokens.

    Raises:
        ValueError: there are none.
    """
    found = list(documents)
    if not found:
        raise ValueError(f"there are no documents for {path}; raise the limits or give other shards")
    num_tokens = sum(ids.size for ids, _ in found)
    about = {"documents": str(len(found)), "tokens": str(num_tokens), "tokenizer": tokenizer.fingerprint}
    write_shard(path, found, about)  # type: ignore[arg-type]  # rows of numbers, arrays here
    return len(found), num_tokens


def _documents(shard: Shard) -> Iterator[Document]:
    """Weights are copies, to be changed."""
    for start, stop in zip(shard.starts[:-1], shard.starts[1:], strict=True):
        yield shard.tokens[start:stop], shard.weights[start:stop].copy()


def _weigh_at_most(weights: Weights, percent: int) -> None:
    np.minimum(weights, np.uint8(percent), out=weights)


def _is_within(document: Document, max_tokens: int, max_decisions: int) -> bool:
    ids, weights = document
    return ids.size <= max_tokens and int(np.count_nonzero(weights == Weight.DECISION)) <= max_decisions


def _find(ids: Ids, wanted: Sequence[int]) -> int | None:
    """Where a row of ids begins first."""
    starts = np.flatnonzero(ids == wanted[0]).tolist()
    return next((start for start in starts if ids[start : start + len(wanted)].tolist() == wanted), None)
