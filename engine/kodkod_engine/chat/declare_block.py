"""The declare block: how a model is told which tools it has, and in whose words.

Its layout is that of the published LongCat-Flash-Lite template. The line that introduces the tools and the note on how
to call them are a checkpoint's own where its template tells them (`checkpoint_words.py`), for it was trained on those;
`OWN_WORDS`, written in their spirit, are for checkpoints that have none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from kodkod_engine.chat.special_tokens import Piece, Tag
from kodkod_engine.messages import ToolSpec

_HEADING = f"{Tag.TOOL_DECLARE}\n# Tools\n"
_NAMESPACE = "\n\n## Tool namespace: function\n\n"
_TAG = re.compile("({})".format("|".join(map(re.escape, Tag))))


@dataclass(frozen=True, slots=True)
class ToolWords:
    """What a declare block says besides the tools."""

    introduction: str
    """The line before them."""
    note: tuple[Piece, ...]
    """How to call them; it stands behind them."""


OWN_WORDS = ToolWords(
    "These are the tools you can call to help with what the user asks.",
    (
        "**Note**: To call a tool, write its name and each of its arguments in this form; "
        "repeat it for further calls:\n",
        Tag.TOOL_CALL,
        "tool-name\n",
        Tag.ARG_KEY,
        "argument-name",
        Tag.ARG_KEY_END,
        "\n",
        Tag.ARG_VALUE,
        "argument-value",
        Tag.ARG_VALUE_END,
        "\n",
        Tag.TOOL_CALL_END,
        "\n",
    ),
)


def tools_pieces(tools: Iterable[ToolSpec], words: ToolWords = OWN_WORDS) -> list[Piece]:
    """The declare block, which comes before everything else; empty without tools.

    Tools are in the order of their names, so that one set of tools is always the same tokens.
    """
    described = described_tools(tools)
    if not described:
        return []
    heading = f"\n# Tools\n{words.introduction}{_NAMESPACE}"
    return [Tag.TOOL_DECLARE, heading + described, *words.note, Tag.TOOL_DECLARE_END]


def described_tools(tools: Iterable[ToolSpec]) -> str:
    """Each tool's name, purpose and arguments, in the order of their names."""
    return "".join(map(_described, sorted(tools, key=lambda tool: tool.name)))


def words_in(block: str, tools: Iterable[ToolSpec]) -> ToolWords | None:
    """The words in which a declare block tells of these tools; None when it is laid out in another way."""
    known = tuple(tools)
    before, _, behind = block.partition(_NAMESPACE + described_tools(known))
    note = _as_pieces(behind.removesuffix(Tag.TOOL_DECLARE_END))
    words = ToolWords(before.removeprefix(_HEADING), tuple(note))
    return words if "".join(tools_pieces(known, words)) == block else None


def _as_pieces(text: str) -> Iterator[Piece]:
    """Text whose tags are meant as control tokens."""
    tags = set(Tag)
    return (Tag(part) if part in tags else part for part in _TAG.split(text) if part)


def _described(tool: ToolSpec) -> str:
    schema = json.dumps(tool.parameters, ensure_ascii=False)
    return f"### Tool name: {tool.name}\nDescription: {tool.description}\n\nInputSchema: {schema}\n\n"
