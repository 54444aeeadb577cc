"""A folder that a benchmark writes gigabytes to and removes: its own, and never another."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MARK_NAME = "made-by-a-benchmark.txt"


@contextmanager
def scratch(folder: Path, what: str, *, keep: bool = False) -> Iterator[Path]:
    """Made here, or kept by an earlier run for the same; removed behind this one unless it is to be kept.

    Args:
        folder: a new or an empty one, or what is left of an earlier run.
        what: it is made for; a folder made for something else is not taken for this.
        keep: for the next run.

    Raises:
        SystemExit: it holds something else, which is left as it is.
    """
    mark = folder / MARK_NAME
    if folder.exists() and not folder.is_dir():
        sys.exit(f"{folder} is no folder; name another with --folder")
    if folder.exists() and any(folder.iterdir()):
        made_for = mark.read_text(encoding="utf-8") if mark.is_file() else ""
        if not made_for:
            sys.exit(f"{folder} holds files that no benchmark made, and would be removed; name another with --folder")
        if made_for != what:
            sys.exit(f"{folder} was made for {made_for}, not for {what}; remove it, or name another with --folder")
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(what, encoding="utf-8")
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
