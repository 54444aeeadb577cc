"""The LongCat chat template: messages to pieces, pieces to ids.

It is incremental: the ids of a conversation are the ids of its parts one after another. The one thing a part must
know of what came before it is whether that was a tool result, because a run of results shares one user tag. The
published template re-renders earlier turns in one case, dropping old reasoning; here what was once rendered stays.

Layout and white space are those of the published LongCat-Flash-Lite template with trimmed blocks: no separators
between messages, EOS after assistant turns alone, no default system text. How tools are declared, and in whose words,
is in `declare_block.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import assert_never

from kodkod_engine.chat.arguments import write_value
from kodkod_engine.chat.declare_block import OWN_WORDS, ToolWords, described_tools, tools_pieces
from kodkod_engine.chat.special_tokens import Piece, Tag
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import (
    AssistantMessage,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)


def late_tools_text(introduction: str, tools: Iterable[ToolSpec], withdrawn: Iterable[str]) -> str:
    """Tools that come late, change or go: a user entry, in the words of the declare block."""
    gone = f"No longer there: {', '.join(sorted(withdrawn))}." if withdrawn else ""
    return "\n\n".join(part for part in (introduction, described_tools(tools).rstrip("\n"), gone) if part)


def message_pieces(message: Message, *, after_tool: bool = False) -> list[Piece]:
    """One message. `after_tool`: the message before it is a tool result."""
    match message:
        case SystemMessage():
            return [Tag.SYSTEM, message.text]
        case UserMessage():
            return [Tag.USER, message.text]
        case AssistantMessage():
            return [Tag.ASSISTANT, *assistant_pieces(message), Tag.EOS]
        case ToolMessage():
            opening = [] if after_tool else [Tag.USER]
            return [*opening, Tag.TOOL_RESPONSE, message.text, Tag.TOOL_RESPONSE_END]
        case _:
            assert_never(message)


def assistant_pieces(message: AssistantMessage) -> list[Piece]:
    """What the model itself writes in a turn: everything between the assistant tag and EOS."""
    thought: list[Piece] = [Tag.THINK, message.reasoning, Tag.THINK_END] if message.reasoning else []
    return [*thought, message.text, *(piece for call in message.calls for piece in call_pieces(call))]


def call_pieces(call: ToolCall) -> list[Piece]:
    """One tool call. A faulty one is its raw text, in which no tag is a control token any more."""
    if call.fault is not None:
        return [Tag.TOOL_CALL, call.raw, Tag.TOOL_CALL_END, "\n"]
    pieces: list[Piece] = [Tag.TOOL_CALL, f"{call.name}\n"]
    for key, value in call.arguments.items():
        pieces += [Tag.ARG_KEY, key, Tag.ARG_KEY_END, "\n"]
        pieces += [Tag.ARG_VALUE, write_value(value), Tag.ARG_VALUE_END, "\n"]
    return [*pieces, Tag.TOOL_CALL_END, "\n"]


def conversation_pieces(
    messages: Sequence[Message],
    tools: Iterable[ToolSpec] = (),
    words: ToolWords = OWN_WORDS,
    *,
    generation_prompt: bool = False,
) -> list[Piece]:
    """A whole conversation; with `generation_prompt` it ends with the tag that asks for an assistant turn."""
    pieces = tools_pieces(tools, words)
    after_tool = False
    for message in messages:
        pieces += message_pieces(message, after_tool=after_tool)
        after_tool = isinstance(message, ToolMessage)
    return [*pieces, Tag.ASSISTANT] if generation_prompt else pieces


def encode_pieces(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> list[int]:
    """Ids of pieces: tags by id, or as text of their own where the vocabulary lacks them; joined text as data."""
    ids: list[int] = []
    for is_tag, run in groupby(pieces, key=lambda piece: isinstance(piece, Tag)):
        if not is_tag:
            ids += tokenizer.encode_text("".join(run))
            continue
        for tag in run:
            tag_id = tokenizer.special.id_of(Tag(tag))
            ids += tokenizer.encode_text(tag) if tag_id is None else [tag_id]
    return ids


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Iterable[ToolSpec] = (),
    *,
    generation_prompt: bool = False,
) -> list[int]:
    """Ids of a whole conversation, tools in the checkpoint's words; see `conversation_pieces`."""
    pieces = conversation_pieces(messages, tools, tokenizer.words, generation_prompt=generation_prompt)
    return encode_pieces(tokenizer, pieces)
