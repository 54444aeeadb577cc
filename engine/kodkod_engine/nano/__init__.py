"""The small model that comes with kodkod: a checkpoint folder like any other, and where it is.

It repairs small single-line faults in Python functions, guided (`kodkod.json`). How it is made: `make nano`.
"""

from __future__ import annotations

from pathlib import Path


def folder() -> Path:
    """The checkpoint folder; it is complete when it holds `model.safetensors.index.json`."""
    return Path(__file__).parent
