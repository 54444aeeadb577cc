"""What was typed before, kept over sessions: JSON lines, the newest last."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

MAX_ENTRIES = 1_000
_MAX_KEPT_CHARS = 100_000
"""A longer one is not written down: all of them are read before the first comes back."""


class PromptHistory:
    """Walks back and forth in what was typed; the draft that was there at first comes back at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[str] | None = None
        self._place = 0
        self._draft = ""

    @property
    def entries(self) -> list[str]:
        """All of it, the oldest first."""
        if self._entries is None:
            self._entries = _read(self._path)
            self._place = len(self._entries)
        return self._entries

    def add(self, text: str) -> None:
        """Keep one. A disk that refuses costs the history alone."""
        entries = self.entries
        if not entries or entries[-1] != text:
            entries.append(text)
            if len(text) <= _MAX_KEPT_CHARS:
                self._write(text)
        self._place = len(entries)

    def _write(self, text: str) -> None:
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(text) + "\n")

    def back(self, draft: str) -> str | None:
        """The one before; None at the oldest."""
        entries = self.entries
        if self._place == len(entries):
            self._draft = draft
        if self._place == 0:
            return None
        self._place -= 1
        return entries[self._place]

    def forth(self) -> str | None:
        """The one after, in the end the draft; None when there already."""
        entries = self.entries
        if self._place >= len(entries):
            return None
        self._place += 1
        return self._draft if self._place == len(entries) else entries[self._place]


def _read(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    entries: list[str] = []
    for line in lines[-MAX_ENTRIES:]:
        with suppress(ValueError):
            text = json.loads(line)
            if isinstance(text, str):
                entries.append(text)
    return entries
