"""Any text up to a length, in whole characters."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache, lru_cache

from kodkod_engine.chat.tokenizer import Tokenizer

_MAX_CHARACTER_BYTES = 4
_FIRST_LEAD = 0xC0
_WHITE_SPACE = b"\n\t"


class FreeText:
    """Up to `max_tokens` tokens without control characters, for which a caller's check says that they may end.

    The check is the caller's wish and not a promise: a text that used up its tokens ends, whatever the check says.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int,
        may_end: Callable[[str], bool] = lambda _: True,
        forbidden_ids: Collection[int] = (),
    ) -> None:
        """Prepare.

        Args:
            tokenizer: the model's.
            max_tokens: of the text; at least 1.
            may_end: the check; the same text always gets the same answer.
            forbidden_ids: tokens that are not to be used.
        """
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._check = cache(may_end)
        vocabulary, forbidden = _vocabulary(tokenizer), frozenset(forbidden_ids)
        self._ids = cache(lambda open_bytes, most: vocabulary.after(open_bytes, most) - forbidden)

    def next_ids(self, prefix_ids: tuple[int, ...]) -> Collection[int]:
        """See `ValueAcceptor`."""
        left = self._max_tokens - len(prefix_ids)
        if left <= 0:
            return frozenset()
        return self._ids(self._open_bytes(prefix_ids), min(left, _MAX_CHARACTER_BYTES) - 1)

    def may_end(self, prefix_ids: tuple[int, ...]) -> bool:
        """See `ValueAcceptor`."""
        return not self._open_bytes(prefix_ids) and self._check(self._tokenizer.decode(prefix_ids))

    def _open_bytes(self, prefix_ids: tuple[int, ...]) -> bytes:
        """The bytes of a character that is not complete yet."""
        last = b"".join(self._tokenizer.bytes_of(token_id) for token_id in prefix_ids[1 - _MAX_CHARACTER_BYTES :])
        for length in range(1, min(_MAX_CHARACTER_BYTES, len(last) + 1)):
            if last[-length] >= _FIRST_LEAD:
                return last[-length:] if _character_length(last[-length]) > length else b""
        return b""


class _Vocabulary:
    """The tokens of one tokenizer by what they may follow."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = (token_id for token_id in range(tokenizer.vocab_size) if token_id not in tokenizer.control_ids)
        self._bytes = {token_id: data for token_id in ids if _is_plain(data := tokenizer.bytes_of(token_id))}
        self.after = cache(self._after)

    def _after(self, open_bytes: bytes, most_missing: int) -> frozenset[int]:
        """Ids after which at most `most_missing` bytes are missing from the last character."""
        return frozenset(
            token_id
            for token_id, data in self._bytes.items()
            if (missing := _missing_bytes(open_bytes + data)) is not None and missing <= most_missing
        )


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Tokenizer) -> _Vocabulary:
    return _Vocabulary(tokenizer)


def _is_plain(data: bytes) -> bool:
    return bool(data) and all(byte >= 0x20 or byte in _WHITE_SPACE for byte in data) and 0x7F not in data


def _missing_bytes(data: bytes) -> int | None:
    """How many bytes its last character lacks; None when it is not the beginning of UTF-8."""
    rest = data[_whole_length(data) :]
    if not rest:
        return 0
    return _character_length(rest[0]) - len(rest) if _begins_character(rest) else None


def _character_length(lead: int) -> int:
    return 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4


def _whole_length(data: bytes) -> int:
    """Length of the longest beginning that is whole characters."""
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        return fault.start
    return len(data)


def _begins_character(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        return fault.reason == "unexpected end of data"
    return False
