"""Faults as the screen tells them."""

from __future__ import annotations

import traceback
from pathlib import Path

from kodkod_app.conditions import told_condition
from kodkod_app.tui import updates as u


def told_fault(fault: BaseException, *, is_fatal: bool = False) -> u.Fault:
    """A fault in one line. One that nobody foresaw is written down whole, where the line says."""
    if (told := told_condition(fault)) is not None:
        return u.Fault(told, 1, is_fatal)
    exit_code = getattr(fault, "exit_code", None)
    text = " ".join(str(fault).split()) or type(fault).__name__
    if exit_code is None:
        kept = _write_down(fault)
        text = f"{type(fault).__name__}: {text}" + (f"; the whole of it is in {kept}" if kept is not None else "")
    return u.Fault(text, int(exit_code or 1), is_fatal)


def _write_down(fault: BaseException) -> Path | None:
    """Where; None where there is no room for it, which may be the fault."""
    from kodkod_app import paths

    try:
        path = paths.cache_folder() / "fault.log"
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(traceback.format_exception(fault)))
    except (OSError, paths.PlaceFault):
        return None
    return path
