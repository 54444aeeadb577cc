"""A dialogue of nano's with its tools, and its token ids with the share of the loss that each of them bears.

The form is the agent's: the user names failing tests, every turn is one call without prose, results are as the tools
print them. Tools are not declared and there is no system text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from itertools import pairwise

from pydantic import JsonValue

from kodkod_app.nano.spans import PRE_TOKEN
from kodkod_app.nano.tokenizer_training import NUMBER_BAR
from kodkod_app.repair_prompt import failing_prompt
from kodkod_engine.chat.special_tokens import Piece, Tag
from kodkod_engine.chat.template import encode_pieces, message_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, Message, ToolCall, ToolMessage, UserMessage

DONE = "The failing tests pass now."
_MAX_KNOWN = 200_000
_PRE_TOKENS = re.compile(rf"{NUMBER_BAR}|{PRE_TOKEN}")


class Weight(IntEnum):
    """Percent of the loss on predicting a token."""

    NONE = 0
    CODE = 5
    """Lines that a view shows: language modelling by the way."""
    SYNTAX = 10
    """What the assistant could hardly write otherwise."""
    DECISION = 100


class Origin(StrEnum):
    """Where a dialogue comes from."""

    REAL = "real"
    SIMULATED = "simulated"
    """The fault and the code are real, the failing tests and what they ran are made up."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One call and what came back; no result where the dialogue ends with the call."""

    tool: str
    arguments: Mapping[str, JsonValue]
    result: str | None = None
    decides: frozenset[str] = frozenset()
    """Arguments that are learnt in full."""
    learnt: bool = True
    """False for a step that turned out wrong: it is context alone."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """The failing tests, then the turns."""

    tests: tuple[str, ...]
    turns: tuple[Turn, ...]
    kind: str
    """The fault's."""
    origin: Origin

    def messages(self) -> list[Message]:
        """As the ledger has them."""
        found: list[Message] = [UserMessage(text=task(self.tests))]
        for number, turn in enumerate(self.turns):
            found.append(_call_message(turn, number))
            if turn.result is not None:
                found.append(ToolMessage(call_id=str(number), text=turn.result))
        return found


@dataclass(frozen=True, slots=True)
class Document:
    """Token ids and, beside each, percent of the loss on predicting it."""

    ids: list[int]
    weights: list[int]


def task(tests: Iterable[str]) -> str:
    """What the user says."""
    return failing_prompt(tests)


def run_turn(result: str, *, locate: bool = False) -> Turn:
    """Run the run's own failing tests."""
    return Turn("test", {"locate": True} if locate else {}, result)


def view_turn(path: str, first_line: int, last_line: int, result: str, *, learnt: bool = True) -> Turn:
    """Look at a suspect."""
    arguments: dict[str, JsonValue] = {"path": path, "start": first_line, "end": last_line}
    return Turn("view", arguments, result, frozenset(arguments), learnt)


def edit_turn(path: str, line: int, old: str, new: str, result: str | None = None, *, learnt: bool = True) -> Turn:
    """Change one line, or put one behind it."""
    arguments: dict[str, JsonValue] = {"path": path, "line": line, "old": old, "new": new}
    return Turn("edit", arguments, result, frozenset(arguments), learnt)


def restore_turn(path: str, result: str) -> Turn:
    """Take an edit back."""
    return Turn("git", {"action": "restore", "path": path}, result)


def finish_turn() -> Turn:
    """The tests pass; the dialogue ends here."""
    return Turn("finish", {"summary": DONE})


class Encoder:
    """Encodes dialogues several times faster than piece by piece: it remembers the ids of pre-tokens.

    That is right for a vocabulary whose merges never cross them, such as nano's own.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """For one vocabulary."""
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        self._tags = {tag: encode_pieces(tokenizer, [tag]) for tag in Tag}

    def encode(self, dialogue: Dialogue) -> Document:
        """The dialogue's ids by the chat template, with their weights."""
        ids: list[int] = []
        weights: list[int] = []
        for piece, weight in _weighted(dialogue):
            before = len(ids)
            if isinstance(piece, Tag):
                ids += self._tags[piece]
            else:
                for text in _PRE_TOKENS.findall(piece):
                    ids += self._known.get(text) or self._learn(text)
            weights += [weight] * (len(ids) - before)
        return Document(ids, weights)

    def _learn(self, text: str) -> list[int]:
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[text] = self._tokenizer.encode_text(text)
        return self._known[text]


def _call_message(turn: Turn, number: int) -> AssistantMessage:
    return AssistantMessage(calls=(ToolCall(id=str(number), name=turn.tool, arguments=dict(turn.arguments)),))


def _weighted(dialogue: Dialogue) -> Iterator[tuple[Piece, Weight]]:
    """The pieces with their weights. Text is cut only where pre-tokens end."""
    for piece in message_pieces(UserMessage(text=task(dialogue.tests))):
        yield piece, Weight.NONE
    for number, turn in enumerate(dialogue.turns):
        yield from _weighted_call(turn, message_pieces(_call_message(turn, number)))
        if turn.result is not None:
            yield from _weighted_result(turn.tool, message_pieces(ToolMessage(call_id="", text=turn.result)))


def _weighted_call(turn: Turn, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Weight]]:
    """The assistant tag is given; values that are decided weigh most, with the tags that end them."""
    syntax = Weight.SYNTAX if turn.learnt else Weight.NONE
    yield pieces[0], Weight.NONE
    key = ""
    for before, piece in pairwise(pieces):
        if before is Tag.ARG_KEY:
            key = piece
        in_value = before is Tag.ARG_VALUE or piece is Tag.ARG_VALUE_END
        yield piece, Weight.DECISION if in_value and turn.learnt and key in turn.decides else syntax


def _weighted_result(tool: str, pieces: Sequence[Piece]) -> Iterator[tuple[Piece, Weight]]:
    *opening, text, closing = pieces
    for piece in opening:
        yield piece, Weight.NONE
    head, end, code = text.partition("\n") if tool == "view" else (text, "", "")
    yield head + end, Weight.NONE
    yield code, Weight.CODE
    yield closing, Weight.NONE
