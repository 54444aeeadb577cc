"""The words in which a checkpoint's own chat template declares tools.

The template is a stranger's program. It is rendered once, for tools and a question of ours, in a process that has
little time and memory (`template_process.py`); only the two texts are taken from what comes out, and only where the
whole block is laid out as `declare_block.py` lays it out. Otherwise one line is logged and our own words are used.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kodkod_engine.chat.declare_block import OWN_WORDS, ToolWords, words_in
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.messages import ToolSpec

logger = logging.getLogger(__name__)

_SECONDS = 20
"""For the process as a whole, on a machine that is busy; it limits its own time on a processor to less."""
_PROCESS = Path(__file__).with_name("template_process.py")
_PROBES = (
    ToolSpec(name="first", description="Is «one» & <others>.", parameters={"type": "object", "properties": {}}),
    ToolSpec(name="second", description="Is another.", parameters={"properties": {"é": {"type": "string"}}}),
)
"""Two, so that what is said once is told from what is said of each."""


class _Unusable(Exception):
    """A template that no words can be taken from, and why."""


def checkpoint_words(folder: Path) -> ToolWords:
    """The words of the chat template in a checkpoint's folder; our own where it has none that can be used."""
    try:
        template = _template_in(folder)
        return OWN_WORDS if template is None else _words_of(template)
    except _Unusable as fault:
        logger.warning("tools are declared in kodkod's words, not those of %s's chat template: %s", folder, fault)
        return OWN_WORDS


def _template_in(folder: Path) -> str | None:
    """As published: in a file of its own, or else in the tokenizer's settings, where it may be one of several."""
    try:
        if (path := folder / "chat_template.jinja").is_file():
            return path.read_text(encoding="utf-8")
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as fault:
        raise _Unusable(f"it cannot be read ({_one_line(str(fault))})") from fault
    found = settings.get("chat_template") if isinstance(settings, Mapping) else None
    if isinstance(found, list):
        found = _chosen(found)
    if found is not None and not isinstance(found, str):
        raise _Unusable("it is no text")
    return found


def _chosen(entries: list[Any]) -> Any:
    """Of several templates the one for tools, else the default."""
    named = {str(entry.get("name")): entry.get("template") for entry in entries if isinstance(entry, Mapping)}
    return named.get("tool_use", named.get("default"))


def _words_of(template: str) -> ToolWords:
    block, end, _ = _rendered(template).rpartition(Tag.TOOL_DECLARE_END)
    words = words_in(block + end, _PROBES)
    if words is None:
        raise _Unusable("it does not declare tools as LongCat-Flash-Lite's does")
    return words


def _rendered(template: str) -> str:
    values = {
        "messages": [{"role": "user", "content": "Hello."}],
        "tools": [{"type": "function", "function": tool.model_dump(mode="json")} for tool in _PROBES],
        "add_generation_prompt": True,
    }
    asked = json.dumps({"template": template, "values": values}).encode()
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(_PROCESS)], input=asked, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise _Unusable(f"it cannot be rendered ({_one_line(str(fault))})") from fault
    if done.returncode:
        said = _one_line(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}"
        raise _Unusable(f"it cannot be rendered ({said})")
    return done.stdout.decode()


def _one_line(text: str) -> str:
    """The end of a stranger's text in one line, nothing in it that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))[-200:]
