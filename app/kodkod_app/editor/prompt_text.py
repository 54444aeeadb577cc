"""What an editor sends as a prompt, as the text the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from acp import RequestError
from acp.schema import EmbeddedResourceContentBlock, ResourceContentBlock, TextContentBlock, TextResourceContents


def prompt_text(blocks: Sequence[Any], work_tree: Path) -> str:
    """Texts as they are, links to files as their paths, files that came along under theirs.

    Raises:
        RequestError: a picture or a sound, which this model cannot read, or nothing at all.
    """
    text = "".join(_told(block, work_tree) for block in blocks).strip()
    if not text:
        raise RequestError.invalid_params({"details": "the prompt is empty; say what is to be done"})
    return text


def _told(block: Any, work_tree: Path) -> str:
    match block:
        case TextContentBlock():
            return block.text
        case ResourceContentBlock():
            return f"`{_path(block.uri, work_tree)}`"
        case EmbeddedResourceContentBlock(resource=TextResourceContents() as resource):
            return f"\n\n`{_path(resource.uri, work_tree)}`:\n\n{resource.text}\n\n"
        case _:
            details = f"the model cannot read {getattr(block, 'type', 'this')}; send text and files"
            raise RequestError.invalid_params({"details": details})


def _path(uri: str, work_tree: Path) -> str:
    """A file of the project by its path there; anything else as it was named."""
    if not uri.startswith("file://"):
        return uri
    try:
        path = Path(unquote(urlsplit(uri).path))
    except ValueError:  # what stands for the machine is no name of one
        return uri
    return str(path.relative_to(work_tree)) if path.is_relative_to(work_tree) else str(path)
