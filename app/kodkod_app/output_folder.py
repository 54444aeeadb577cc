"""The folder that `-o` names."""

from __future__ import annotations

from pathlib import Path


class OutputFault(Exception):
    """The folder cannot be made."""

    exit_code = 2


def make_output(folder: Path) -> None:
    """Make a folder that results go into, if it is not there.

    Raises:
        OutputFault: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise OutputFault(f"{folder} cannot be made ({fault.strerror}); choose another folder with -o") from fault
