"""Which texts an argument's value may be, token by token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from kodkod_engine.chat.tokenizer import Tokenizer


class ValueState(Protocol):
    """A place within a value. Immutable, and pure: the same ids from the start always lead to an equal one.

    Behind every id that is allowed an end can be reached. Where nothing is allowed the value ends; where it may not,
    no token of the vocabulary goes on.
    """

    @property
    def allowed(self) -> Collection[int]:
        """Ids that may follow within the value; control tokens are not among them."""
        ...

    @property
    def may_end(self) -> bool:
        """Whether the value may be over here."""
        ...

    def after(self, token_id: int) -> ValueState:
        """The place behind an id that is allowed."""
        ...


class ValueAcceptor(Protocol):
    """A set of texts as token sequences."""

    def start(self) -> ValueState:
        """The place before the first token."""
        ...


@dataclass(frozen=True, slots=True)
class Late:
    """An acceptor that is made when the value begins: for those that cost time or read files."""

    make: Callable[[], ValueAcceptor]

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return self.make().start()


class OneOf:
    """One of some texts, in the tokens each is encoded to."""

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str]) -> None:
        """Build the trie.

        Raises:
            ValueError: no text is given.
        """
        self._root = _Node()
        for text in texts:
            node = self._root
            for token_id in tokenizer.encode_text(text):
                node = node.children.setdefault(token_id, _Node())
            node.may_end = True
        if not self._root.children and not self._root.may_end:
            raise ValueError("a choice among no texts can never be made; leave the call out instead")

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return self._root


class _Node:
    """See `ValueState`. Not changed any more once the trie is built."""

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.may_end = False

    @property
    def allowed(self) -> Collection[int]:
        return self.children.keys()

    def after(self, token_id: int) -> ValueState:
        return self.children[token_id]


@dataclass(frozen=True, slots=True)
class EndingWhere:
    """Those texts of another acceptor that pass a check.

    Behind every text that fails it, a longer one that passes has to be within reach.
    """

    tokenizer: Tokenizer
    acceptor: ValueAcceptor
    passes: Callable[[str], bool]

    def start(self) -> ValueState:
        """See `ValueAcceptor`."""
        return _Checked(self, self.acceptor.start(), b"")


@dataclass(frozen=True)
class _Checked:
    """See `ValueState`."""

    owner: EndingWhere
    state: ValueState
    written: bytes

    @property
    def allowed(self) -> Collection[int]:
        return self.state.allowed

    @cached_property
    def may_end(self) -> bool:
        return self.state.may_end and self.owner.passes(self.written.decode())

    def after(self, token_id: int) -> ValueState:
        return _Checked(self.owner, self.state.after(token_id), self.written + self.owner.tokenizer.bytes_of(token_id))


class PrefixAcceptor(Protocol):
    """A set of token sequences, each asked about as a whole: for short ones."""

    def next_ids(self, prefix_ids: tuple[int, ...]) -> Collection[int]:
        """See `ValueState.allowed`."""
        ...

    def may_end(self, prefix_ids: tuple[int, ...]) -> bool:
        """See `ValueState.may_end`."""
        ...


@dataclass(frozen=True, slots=True)
class PrefixState:
    """See `ValueState`."""

    acceptor: PrefixAcceptor
    prefix_ids: tuple[int, ...] = ()

    @property
    def allowed(self) -> Collection[int]:
        """See `ValueState`."""
        return self.acceptor.next_ids(self.prefix_ids)

    @property
    def may_end(self) -> bool:
        """See `ValueState`."""
        return self.acceptor.may_end(self.prefix_ids)

    def after(self, token_id: int) -> ValueState:
        """See `ValueState`."""
        return PrefixState(self.acceptor, (*self.prefix_ids, token_id))
