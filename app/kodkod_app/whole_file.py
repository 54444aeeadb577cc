"""A file that is whole or as it was: neither a full disk nor a kill leaves half of it."""

from __future__ import annotations

from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a file anew, in UTF-8, and put it in the place of the old one in one step.

    Raises:
        OSError: it cannot be written; the old one stays.
    """
    fresh = path.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
