"""Folders of a test that another user than root has to come to."""

from __future__ import annotations

from pathlib import Path


def let_others_in(folder: Path) -> None:
    """Open a folder to everybody, and those around it that are closed: pytest's own, however many they are."""
    for place in (folder.resolve(), *folder.resolve().parents):
        if not place.stat().st_mode & 0o001:
            place.chmod(0o755)
