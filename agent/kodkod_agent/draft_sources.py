"""The files a conversation works on, as ids the model may repeat: what it writes next often stands in them already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.messages import AssistantMessage, Message
from kodkod_tools.base import ToolContext, ToolError
from kodkod_tools.files import read_text
from kodkod_tools.paths import resolve_readable

MAX_FILES = 8
"""The files named last."""

MAX_FILE_BYTES = 200_000


def paths_in_use(messages: Iterable[Message]) -> list[str]:
    """Paths that calls have named, the latest last, each once."""
    calls = (call for message in messages if isinstance(message, AssistantMessage) for call in message.calls)
    named = [path for call in calls if isinstance(path := call.arguments.get("path"), str)]
    return list(reversed(dict.fromkeys(reversed(named))))


def draft_sources(messages: Sequence[Message], tools: ToolContext, tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Ids of the files in use, as they are now; what cannot be read is left out.

    Tool outputs are in the conversation anyway, but there each line has its number before it, and a copy ends at every
    line.
    """
    texts = (_text(path, tools) for path in paths_in_use(messages)[-MAX_FILES:])
    return tuple(_encoded(tokenizer, text) for text in texts if text)


def _text(path: str, tools: ToolContext) -> str:
    try:
        return read_text(resolve_readable(tools, path), MAX_FILE_BYTES).text
    except ToolError:
        return ""


@lru_cache(maxsize=4 * MAX_FILES)
def _encoded(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    # Kept because most files are the same at the next turn.
    return tuple(tokenizer.encode_text(text))
