"""Predictions in the forms the graders of this benchmark read, made from the records."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kodkod_app.swebench.records import Attempt
from kodkod_app.swebench.rows import DatasetFault, Row

GOLD, EMPTY = "gold", "empty"
"""Name the two controls: the reference patches, and no change at all."""


def file_names(run: int) -> tuple[str, str]:
    """Of one run: JSON lines, and JSON by instance."""
    suffix = "" if run == 1 else f".run-{run}"
    return f"preds{suffix}.jsonl", f"preds{suffix}.json"


def write_predictions(attempts: Iterable[Attempt], folder: Path, run: int, model: str) -> None:
    """Write both files of a run anew; each is whole at any instant."""
    predictions = [_prediction(attempt, model) for attempt in attempts if attempt.run == run]
    lines, whole = file_names(run)
    _replace(folder / lines, "".join(f"{json.dumps(one)}\n" for one in predictions))
    _replace(folder / whole, json.dumps({one["instance_id"]: one for one in predictions}, indent=1) + "\n")


def _prediction(attempt: Attempt, model: str) -> dict[str, str]:
    return {
        "instance_id": attempt.instance_id,
        "model_name_or_path": model,
        "model_patch": attempt.model_patch,
    }


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="ascii")
    os.replace(new, path)  # noqa: PTH105 - the pair of names says what happens


def read_predictions(path: Path) -> dict[str, dict[str, Any]]:
    """Predictions by instance.

    Raises:
        DatasetFault: there are none, or they are of another form.
    """
    try:
        data = path.read_bytes()
        found = _parsed(path, data)
        entries = list(found.values()) if isinstance(found, Mapping) else found
        return {entry["instance_id"]: _checked(entry) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as fault:
        raise DatasetFault(
            f"{path} holds no predictions ({_told(fault)}); give .jsonl or .json with instance_id, "
            f"model_name_or_path and model_patch, the folder of a run, or {GOLD} or {EMPTY}"
        ) from fault


def _told(fault: Exception) -> str:
    if isinstance(fault, OSError):
        return fault.strerror or type(fault).__name__
    return f"{fault} is missing" if isinstance(fault, KeyError) else " ".join(str(fault).split())


def _parsed(path: Path, data: bytes) -> Any:
    lines = enumerate(data.split(b"\n"), 1)
    found = json.loads(data) if path.suffix == ".json" else [_line(*line) for line in lines if line[1].strip()]
    if not found:
        raise ValueError("it is empty")
    return found


def _line(number: int, line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as fault:
        raise ValueError(f"line {number}: {fault}") from fault


def _checked(entry: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(entry["instance_id"], str):
        raise TypeError(f"{entry['instance_id']!r} names no instance")
    patch = entry.get("model_patch")
    if patch is not None and not isinstance(patch, str):
        raise TypeError(f"the patch of {entry['instance_id']} is no text")
    model = str(entry.get("model_name_or_path") or "unnamed")
    if not model.isprintable() or model in (".", ".."):  # folders are named after it
        raise ValueError(f"the model of {entry['instance_id']} cannot be named {model!r}")
    return {**entry, "model_name_or_path": model, "model_patch": patch}


def control_predictions(name: str, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The predictions of a control.

    The empty patch is graded, not passed over as the official package does with one: a line added to no file that
    counts makes it a change.
    """
    return {
        row.instance_id: {
            "instance_id": row.instance_id,
            "model_name_or_path": name,
            "model_patch": row.patch if name == GOLD else NO_CHANGE,
        }
        for row in rows
    }


NO_CHANGE = """\
diff --git a/.kodkod-no-change b/.kodkod-no-change
new file mode 100644
--- /dev/null
+++ b/.kodkod-no-change
@@ -0,0 +1 @@
+This file changes nothing.
"""
"""A patch that is applied and tested, and mends nothing."""
