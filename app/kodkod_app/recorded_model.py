"""A recorded model: a file of turns that are said again, token for token, through the real engine's scheduler.

One JSON object a line, one line a turn:

    {"text": "I look at it.", "calls": [{"name": "view", "arguments": {"path": "calc.py"}}]}

Which turn comes is told from the prompt alone (how many there are in it already), so that a session killed in the
middle goes on where it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kodkod_engine.backends.scripted import ScriptedEngine
from kodkod_engine.chat.byte_tokenizer import write_byte_tokenizer
from kodkod_engine.chat.template import assistant_pieces, encode_pieces
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.config import EngineConfig
from kodkod_engine.errors import CheckpointCorrupt, CheckpointMissing
from kodkod_engine.messages import AssistantMessage, ToolCall

PREFIX = "script:"
_CONTEXT_TOKENS = 262_144
"""A byte is a token here, so a conversation takes several times as many as with a real vocabulary."""


class RecordedCall(BaseModel):
    """One call of a turn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class RecordedTurn(BaseModel):
    """What the model says in one turn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = ""
    reasoning: str = ""
    calls: tuple[RecordedCall, ...] = ()

    def as_message(self) -> AssistantMessage:
        """In the engine's vocabulary."""
        calls = tuple(ToolCall(id="", name=call.name, arguments=call.arguments) for call in self.calls)
        return AssistantMessage(text=self.text, reasoning=self.reasoning, calls=calls)


def open_recording(path: Path) -> ScriptedEngine:
    """An engine that says what the file holds.

    Raises:
        CheckpointMissing: there is no such file.
        CheckpointCorrupt: a line cannot be read.
    """
    turns = read_turns(path)
    with tempfile.TemporaryDirectory(prefix="kodkod-tokenizer-") as folder:
        write_byte_tokenizer(Path(folder))
        tokenizer = Tokenizer.from_folder(Path(folder))
    return ScriptedEngine(
        _by_turn(tokenizer, turns),
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        max_context_tokens=_CONTEXT_TOKENS,
        tokenizer=tokenizer,
        config=EngineConfig(max_cached_tokens=2 * _CONTEXT_TOKENS, max_step_tokens=_CONTEXT_TOKENS),
    )


def read_turns(path: Path) -> list[RecordedTurn]:
    """The turns of a file; see `open_recording`."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as fault:
        raise CheckpointMissing(f"there is no recording {path}; give a file of turns as {PREFIX}FILE") from fault
    except (OSError, UnicodeDecodeError) as fault:
        raise CheckpointCorrupt(f"{path} cannot be read ({fault}); give a file of JSON lines") from fault
    return [_read_turn(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _read_turn(path: Path, number: int, line: str) -> RecordedTurn:
    try:
        return RecordedTurn.model_validate_json(line)
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the line"
        raise CheckpointCorrupt(f"{path}, line {number}: {place}: {first['msg']}; correct it") from fault


def _by_turn(tokenizer: Tokenizer, turns: Sequence[RecordedTurn]) -> Callable[[tuple[int, ...]], list[int]]:
    answers = [[*encode_pieces(tokenizer, assistant_pieces(turn.as_message())), tokenizer.eos_id] for turn in turns]

    def answer(prompt_ids: tuple[int, ...]) -> list[int]:
        number = prompt_ids.count(tokenizer.special.assistant_id)
        if number > len(answers):
            raise LookupError(f"the recording has {len(answers)} turns, and turn {number} was asked for")
        return answers[number - 1]

    return answer
