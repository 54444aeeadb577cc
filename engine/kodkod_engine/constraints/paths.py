"""Paths: to what is there, in a tree that is read as far as the model goes into it; and to what may be made."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Protocol

import numpy as np

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints import utf8
from kodkod_engine.constraints.acceptors import ValueState
from kodkod_engine.constraints.token_mask import TokenMask
from kodkod_engine.constraints.vocabulary import Vocabulary, vocabulary_of

_NO_NAMES = frozenset((b"", b".", b".."))
_LONGEST_NAME, _LONGEST_PATH = 252, 1024
"""Bytes of a new path: systems take names of 255, and a character that was begun may need three more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in a folder."""

    name: bytes
    is_folder: bool = False
    may_be_named: bool = True
    """Whether a path may end here, with or without a slash behind a folder."""


class Folders(Protocol):
    """The folders that paths lead through. What it says of a folder does not change while it is used."""

    def entries(self, folder: bytes) -> Sequence[Entry]:
        """What is in a folder: a path that ends with a slash, or empty, which is where all paths begin.

        Folders of which nothing may be named are best left out: no path could be completed there.
        """
        ...


class ExistingPath:
    """Paths to what is there. A path that can go on in one way alone goes on in the tokens it is encoded to."""

    def __init__(self, tokenizer: Tokenizer, folders: Folders) -> None:
        self._start = _Path(tokenizer, vocabulary_of(tokenizer), folders, b"", ())

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return self._start


@dataclass(frozen=True)
class _Path:
    """See `ValueState`."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    folders: Folders
    written: bytes
    ids: tuple[int, ...]

    @cached_property
    def allowed(self) -> Collection[int]:
        texts = _completions(self.folders, self.written)
        if len(texts) == 1 and not texts[0].endswith(b"/") and not self.may_end:
            return frozenset((self._only_way(texts[0]),)) if texts[0] else frozenset()
        entered = 0
        while True:
            ids, longer = self.vocabulary.tokens_along(texts)
            deeper = [texts[place] for place in longer if place >= entered and texts[place].endswith(b"/")]
            entered = len(texts)
            texts += [text + rest for text in deeper for rest in _completions(self.folders, self.written + text)]
            if len(texts) == entered:
                return ids

    @cached_property
    def may_end(self) -> bool:
        folder, name = _split(self.written)
        if not name and folder:
            folder, name = _split(folder[:-1])
            return any(entry.name == name and entry.is_folder for entry in self._named(folder))
        return any(entry.name == name for entry in self._named(folder))

    def after(self, token_id: int) -> ValueState:
        written = self.written + self.tokenizer.bytes_of(token_id)
        return _Path(self.tokenizer, self.vocabulary, self.folders, written, (*self.ids, token_id))

    def _named(self, folder: bytes) -> list[Entry]:
        return [entry for entry in self.folders.entries(folder) if entry.may_be_named]

    def _only_way(self, rest: bytes) -> int:
        whole = self.tokenizer.encode_text((self.written + rest).decode("utf-8", "replace"))
        if tuple(whole[: len(self.ids)]) == self.ids:
            return whole[len(self.ids)]
        ids, _ = self.vocabulary.tokens_along([rest])
        return max(ids, key=lambda token_id: len(self.tokenizer.bytes_of(token_id)))


def _split(path: bytes) -> tuple[bytes, bytes]:
    """The folder with its slash, and the name in it."""
    cut = path.rfind(b"/") + 1
    return path[:cut], path[cut:]


def _completions(folders: Folders, written: bytes) -> list[bytes]:
    """What may be missing of a name that was begun; a folder's with a slash."""
    folder, begun = _split(written)
    return [
        entry.name[len(begun) :] + (b"/" if entry.is_folder else b"")
        for entry in folders.entries(folder)
        if entry.name.startswith(begun)
    ]


class NewPath:
    """Relative paths that stay below where they begin, whether something is there or not.

    No name in it is empty, `.`, `..`, or forbidden; there are no control characters; nothing is too long for a disk.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        forbidden: Collection[str] = (),
        may_end: Callable[[str], bool] = lambda _: True,
        closed: Callable[[bytes], Collection[bytes]] = lambda _: (),
    ) -> None:
        """Prepare.

        Args:
            tokenizer: the model's.
            forbidden: names, in lower case, that are no name of a folder or file here.
            may_end: asked about whole paths; one that is refused has to go on.
            closed: names in a folder (its path with a slash, or empty) that are there and that no path leads through.
        """
        self._tokenizer = tokenizer
        self._no_names = _NO_NAMES | {name.encode() for name in forbidden}
        self._may_end = cache(may_end)
        self._closed = cache(lambda folder: frozenset(closed(folder)))
        self._tokens = cache(self._find_tokens)

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return _NewPath(self, b"", utf8.BETWEEN)

    def tokens(self, written: bytes, utf8_state: int) -> TokenMask:
        """Ids that may follow."""
        folder, name = _split(written)
        telling = name.lower() if any(other.startswith(name.lower()) for other in self._no_names) else b"*"
        found = self._tokens(telling, utf8_state)
        if through := self._through_closed(folder, name):
            found = found.without(TokenMask.of(through, self._tokenizer.vocab_size))
        if len(written) > _LONGEST_PATH:
            found = found.without(_deeper(self._tokenizer))
        room = max(_LONGEST_NAME - len(name), int(utf8_state != utf8.BETWEEN))
        return found if room >= _longest(self._tokenizer) else found.without(_longer(self._tokenizer, room))

    def _through_closed(self, folder: bytes, name: bytes) -> list[int]:
        """Tokens that complete a closed name and lead on through it."""
        slashed = _by_first_part(self._tokenizer)
        rests = (other[len(name) :] for other in self._closed(folder) if other.startswith(name))
        return [token_id for rest in rests for token_id in slashed.get(rest, ())]

    def may_end(self, written: bytes) -> bool:
        """Whether it is a path."""
        _, name = _split(written)
        return name.lower() not in self._no_names and self._may_end(written.decode("utf-8", "replace"))

    def after(self, written: bytes, utf8_state: int, token_id: int) -> ValueState:
        """The state behind a token."""
        data = self._tokenizer.bytes_of(token_id)
        return _NewPath(self, written + data, utf8.advance(utf8_state, data))

    def _find_tokens(self, name: bytes, utf8_state: int) -> TokenMask:
        vocabulary = vocabulary_of(self._tokenizer)
        bits = np.zeros(vocabulary.size, np.bool_)
        bits[[token for token, data in _with_slash(self._tokenizer) if not self._splits_well(name + data)]] = True
        return (
            vocabulary.utf8_tokens(utf8_state, plain=True)
            .without(_white_space(self._tokenizer))
            .without(TokenMask.from_bits(bits))
        )

    def _splits_well(self, path: bytes) -> bool:
        return all(name.lower() not in self._no_names for name in path.split(b"/")[:-1])


@dataclass(frozen=True, slots=True)
class _NewPath:
    """See `ValueState`."""

    path: NewPath
    written: bytes
    utf8_state: int

    @property
    def allowed(self) -> Collection[int]:
        return self.path.tokens(self.written, self.utf8_state)

    @property
    def may_end(self) -> bool:
        return self.utf8_state == utf8.BETWEEN and self.path.may_end(self.written)

    def after(self, token_id: int) -> ValueState:
        return self.path.after(self.written, self.utf8_state, token_id)


@cache
def _with_slash(tokenizer: Tokenizer) -> list[tuple[int, bytes]]:
    tokens = ((token_id, tokenizer.bytes_of(token_id)) for token_id in range(tokenizer.vocab_size))
    return [(token_id, data) for token_id, data in tokens if b"/" in data and token_id not in tokenizer.control_ids]


@cache
def _deeper(tokenizer: Tokenizer) -> TokenMask:
    """Tokens with a slash."""
    return TokenMask.of((token_id for token_id, _ in _with_slash(tokenizer)), tokenizer.vocab_size)


@cache
def _by_first_part(tokenizer: Tokenizer) -> dict[bytes, list[int]]:
    """Tokens with a slash, by what stands before the first."""
    found: dict[bytes, list[int]] = {}
    for token_id, data in _with_slash(tokenizer):
        found.setdefault(data.split(b"/")[0], []).append(token_id)
    return found


@cache
def _first_parts(tokenizer: Tokenizer) -> dict[int, int]:
    """Bytes of a token up to its first slash, by id."""
    return {token_id: len(tokenizer.bytes_of(token_id).split(b"/")[0]) for token_id in range(tokenizer.vocab_size)}


@cache
def _longest(tokenizer: Tokenizer) -> int:
    return max(_first_parts(tokenizer).values())


@cache
def _longer(tokenizer: Tokenizer, room: int) -> TokenMask:
    """Tokens that add more bytes than that to a name."""
    parts = _first_parts(tokenizer).items()
    return TokenMask.of((token_id for token_id, size in parts if size > room), tokenizer.vocab_size)


@cache
def _white_space(tokenizer: Tokenizer) -> TokenMask:
    """Tokens with a line feed or a tab."""
    tokens = ((token_id, tokenizer.bytes_of(token_id)) for token_id in range(tokenizer.vocab_size))
    return TokenMask.of((token_id for token_id, data in tokens if b"\n" in data or b"\t" in data), tokenizer.vocab_size)
