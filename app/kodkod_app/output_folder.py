"""The folder that `-o` names: made, and kept for one question."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kodkod_agent.errors import cause_of
from kodkod_app.whole_file import replace_text

_SETTING = "setting.json"
_OBJECT = TypeAdapter(dict[str, Any])


class OutputFault(Exception):
    """The folder cannot be made, or holds what came of another question."""

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


def claim_output(folder: Path, setting: Mapping[str, Any], must_agree: Sequence[str], held: str) -> None:
    """Keep a folder for what is asked now, or find that it is: results of two questions must not be counted together.

    Args:
        folder: there.
        setting: what is asked; plain values.
        must_agree: those that have to be the same to go on.
        held: what the folder holds, in a word.

    Raises:
        OutputFault: it holds what came of another question.
    """
    path = folder / _SETTING
    before = _read(path) if path.exists() else setting
    if differing := [name for name in must_agree if before.get(name) != setting[name]]:
        raise OutputFault(
            f"{folder} holds {held} with another {' and '.join(differing)}; choose another folder with -o"
        )
    replace_text(path, json.dumps(setting, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        return _OBJECT.validate_json(path.read_bytes())
    except (OSError, ValidationError) as fault:
        cause = cause_of(fault)
        raise OutputFault(f"{path} cannot be read ({cause}); restore it, or choose another folder with -o") from fault
