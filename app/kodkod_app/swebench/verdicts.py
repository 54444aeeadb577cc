"""What graders said, one JSON line for each prediction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from kodkod_app.json_lines import JsonLines

FAIL_TO_PASS, PASS_TO_PASS = "FAIL_TO_PASS", "PASS_TO_PASS"


class Place(StrEnum):
    """Where tests were run."""

    DOCKER = "docker"
    """In the official package's containers."""
    FOLDERS = "folders"
    """In plain folders, in boxes of ours; read by the official package."""


class Outcome(StrEnum):
    """What a prediction came to."""

    RESOLVED = "resolved"
    UNRESOLVED = "unresolved"
    EMPTY = "empty_patch"
    ERROR = "error"
    """The patch does not apply, the tests ran out of time, or there was no place to run them."""


class Verdict(BaseModel):
    """On one prediction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance_id: str
    source: str
    """`run-N`, `gold` or `empty`."""
    place: Place
    outcome: Outcome
    patch_sha256: str = ""
    """Of the patch that was graded; empty in verdicts that do not say."""
    harness: str
    """Version of the official package."""
    infra_failure: bool = False
    """The environment broke, as far as the log tells. Counted as it stands all the same."""
    failed: dict[str, tuple[str, ...]] = {}
    """Tests of either list that did not pass."""
    reason: str = ""

    @property
    def is_resolved(self) -> bool:
        """All that should pass passes."""
        return self.outcome is Outcome.RESOLVED

    def is_on(self, patch: str | None) -> bool:
        """Whether it was this patch that was graded, as far as the verdict says."""
        return self.patch_sha256 in ("", patch_sha256(patch))

    @property
    def key(self) -> str:
        """Names it."""
        return f"{self.source}/{self.place}/{self.instance_id}"


class Verdicts(JsonLines[Verdict]):
    """All verdicts of a folder; the last on a prediction counts."""

    def __init__(self, folder: Path) -> None:
        """Open `verdicts.jsonl`, new or old.

        Raises:
            RecordsDamaged: a line other than a torn last one cannot be read.
        """
        super().__init__(folder / "verdicts.jsonl", Verdict, lambda verdict: verdict.key)

    def best(self, source: str, instance_id: str) -> Verdict | None:
        """That of Docker where there are two."""
        return next(self._all(source, instance_id), None)

    def on_patch(self, source: str, instance_id: str, patch: str) -> Verdict | None:
        """The best of those on this patch: an attempt that was made again has another one, which nobody graded."""
        return next((verdict for verdict in self._all(source, instance_id) if verdict.is_on(patch)), None)

    def _all(self, source: str, instance_id: str) -> Iterator[Verdict]:
        found = (self.get(f"{source}/{place}/{instance_id}") for place in Place)
        yield from (verdict for verdict in found if verdict is not None)

    @property
    def differing(self) -> list[str]:
        """Predictions on which both places disagree."""
        seen: dict[tuple[str, str, str], set[bool]] = {}
        for verdict in self:
            seen.setdefault((verdict.source, verdict.instance_id, verdict.patch_sha256), set()).add(verdict.is_resolved)
        return [f"{source}/{instance_id}" for (source, instance_id, _), found in sorted(seen.items()) if len(found) > 1]


def patch_sha256(patch: str | None) -> str:
    """Of a patch; none is an empty one."""
    return hashlib.sha256((patch or "").encode("utf-8", "surrogatepass")).hexdigest()


def read_report(path: Path, instance_id: str) -> tuple[Outcome, Mapping[str, Any]]:
    """The outcome an official `report.json` tells, and its entry; an error where there is none."""
    try:
        entry = json.loads(path.read_bytes())[instance_id]
        return (Outcome.RESOLVED if entry["resolved"] else Outcome.UNRESOLVED), entry
    except (OSError, ValueError, KeyError, TypeError):
        return Outcome.ERROR, {}


def failed_tests(entry: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Of both lists, the tests that did not pass."""
    status = entry.get("tests_status") or {}
    return {name: tuple(status[name]["failure"]) for name in (FAIL_TO_PASS, PASS_TO_PASS) if name in status}
