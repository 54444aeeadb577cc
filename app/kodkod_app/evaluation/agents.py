"""Who is evaluated: a model, or one of the controls each task brings along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from kodkod_app.bootstrap import Model
from kodkod_app.evaluation.suite import Kind, Suite, Task
from kodkod_app.offline import open_scripted, open_tokenizer
from kodkod_app.recorded_model import RecordedCall, RecordedTurn
from kodkod_engine.chat.template import assistant_pieces, encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer


class AgentKind(StrEnum):
    """What `--agent` takes."""

    MODEL = "model"
    RANDOM = "random"
    """A tiny model with random weights: what chance comes to."""
    REFERENCE = "reference"
    """Says what each task's reference solution says: everything must pass."""
    NOTHING = "nothing"
    """Says and does nothing: nothing must pass."""
    WRONG = "wrong"
    """Does what each task's planted wrong solution does: nothing must pass."""

    @property
    def is_scripted(self) -> bool:
        """Whether it needs no model."""
        return self in (AgentKind.REFERENCE, AgentKind.NOTHING, AgentKind.WRONG)


_FINISHES = (RecordedTurn(calls=(RecordedCall(name="finish", arguments={"summary": "Nothing was done."}),)),)
_SILENT = (RecordedTurn(),)


def turns_of(kind: AgentKind, suite: Suite, task: Task) -> Sequence[RecordedTurn]:
    """What a scripted agent says in a task."""
    if kind is AgentKind.NOTHING:
        return _FINISHES if suite.kind in (Kind.CODING, Kind.HARBOR) else _SILENT
    if suite.kind is Kind.HARBOR:  # its reference is a script, and it brings no wrong one along
        return _FINISHES
    return task.reference if kind is AgentKind.REFERENCE else task.wrong


def scripted_model(turns: Sequence[RecordedTurn], name: str) -> Model:
    """A model that says these turns, one after another, and then nothing. Its engine is the caller's to close."""
    tokenizer = open_tokenizer("")
    return Model(name, open_scripted(_by_turn(tokenizer, turns), tokenizer), tokenizer)


def _by_turn(tokenizer: Tokenizer, turns: Sequence[RecordedTurn]) -> Callable[[tuple[int, ...]], list[int]]:
    answers = [[*encode_pieces(tokenizer, assistant_pieces(turn.as_message())), tokenizer.eos_id] for turn in turns]

    def answer(prompt_ids: tuple[int, ...]) -> list[int]:
        number = prompt_ids.count(tokenizer.special.assistant_id)
        return answers[number - 1] if number <= len(answers) else [tokenizer.eos_id]

    return answer
