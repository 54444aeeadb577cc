"""What a server answered, for our three readers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from kodkod_tools.base import ErrorCode, ToolContext, ToolResult
from kodkod_tools.output import keep_text
from kodkod_tools.text.cleaned import cleaned

_BASE64_BYTES = 0.75
_MAX_LINE_CHARS = 200


def told(answer: CallToolResult, server: str, context: ToolContext) -> ToolResult:
    """The result of a call: bounded for the model, a line for the person, the whole in a file when it is long.

    Facts: `server`, `is_error`.
    """
    text = cleaned(_text(answer))
    kept = keep_text(text, context.log_folder, f"mcp-{server}", context.config.max_result_chars)
    error = ErrorCode.FAILED if answer.is_error else None
    for_model = f"error: {kept.for_model}" if answer.is_error else kept.for_model
    first = text.strip().partition("\n")[0]
    return ToolResult(
        for_model=for_model[: context.config.max_result_chars],
        for_person=first[:_MAX_LINE_CHARS],
        for_log=kept.for_log if isinstance(kept.for_log, Path) else "",
        error=error,
        facts={"server": server, "is_error": answer.is_error},
    )


def _text(answer: CallToolResult) -> str:
    parts = list(_parts(answer.content))
    if not parts and answer.structured_content is not None:
        return json.dumps(answer.structured_content, ensure_ascii=False)
    return "\n".join(parts) or "(an empty answer)"


def _parts(content: Iterable[ContentBlock]) -> Iterable[str]:
    for block in content:
        match block:
            case TextContent():
                yield block.text
            case ImageContent() | AudioContent():
                size = int(len(block.data) * _BASE64_BYTES)
                yield f"[{block.type}, {block.mime_type}, about {size:,} bytes: not shown]"
            case EmbeddedResource():
                found = block.resource
                text = found.text if isinstance(found, TextResourceContents) else "[not text: not shown]"
                yield f"{found.uri}:\n{text}"
            case ResourceLink():
                yield f"[a link: {block.uri}]"
