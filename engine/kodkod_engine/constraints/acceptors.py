"""Which texts an argument's value may be, token by token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Protocol

from kodkod_engine.chat.tokenizer import Tokenizer


class ValueAcceptor(Protocol):
    """A set of token sequences. Pure: the same prefix always gives the same answer.

    From every prefix that `next_ids` leads to, an end is reached. Where both methods say no, the value ends there.
    """

    def next_ids(self, prefix_ids: tuple[int, ...]) -> Collection[int]:
        """Ids that may follow within the value; control tokens are not among them."""
        ...

    def may_end(self, prefix_ids: tuple[int, ...]) -> bool:
        """Whether the value may be over here."""
        ...


class OneOf:
    """One of some texts, in the tokens each is encoded to."""

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
        """Build the trie.

        Raises:
            ValueError: no text is given.
        """
        self._ends: set[tuple[int, ...]] = {tuple(tokenizer.encode_text(text)) for text in texts}
        if not self._ends:
            raise ValueError("a choice among no texts can never be made; leave the call out instead")
        followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for ids in self._ends:
            for place, token_id in enumerate(ids):
                followers[ids[:place]].add(token_id)
        self._followers = {prefix: frozenset(ids) for prefix, ids in followers.items()}

    def next_ids(self, prefix_ids: tuple[int, ...]) -> Collection[int]:
        """See `ValueAcceptor`."""
        return self._followers.get(prefix_ids, frozenset())

    def may_end(self, prefix_ids: tuple[int, ...]) -> bool:
        """See `ValueAcceptor`."""
        return prefix_ids in self._ends
