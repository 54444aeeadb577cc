"""Which folders a person trusts to start programs outside the box: those that `kodkod trust` was said of.

What a project would start (its MCP servers and hooks) may change with the next pull. So trust is given to a folder as
it stands: its fingerprint is kept, and a folder whose fingerprint is another is no longer trusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kodkod_agent.errors import cause_of
from kodkod_app import paths
from kodkod_app.settings import SettingsFault, project_hooks
from kodkod_tools.mcp.config import MAX_FILE_BYTES, PROJECT_FILE
from kodkod_tools.small_files import read_small


class Standing(StrEnum):
    """How a folder stands with the person."""

    UNTRUSTED = "untrusted"
    CHANGED = "changed since it was trusted"
    TRUSTED = "trusted"


class _Kept(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folders: Mapping[str, str] = {}
    """Fingerprints by absolute path."""


def fingerprint(work_tree: Path) -> str:
    """Names what a project would start, as it stands: the whole file of its servers, and its hooks."""
    parts = [_servers(work_tree), _hooks(work_tree)]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _servers(work_tree: Path) -> bytes:
    try:
        return read_small(work_tree / PROJECT_FILE, MAX_FILE_BYTES)
    except OSError as fault:
        return str(fault.errno).encode()


def _hooks(work_tree: Path) -> bytes:
    """Nothing else of the settings: they are changed for other reasons."""
    hooks = project_hooks(work_tree)
    return json.dumps([hook.model_dump(mode="json") for hook in hooks]).encode() if hooks else b""


def standing(work_tree: Path) -> Standing:
    """How a folder stands.

    Raises:
        SettingsFault: the list, or the project's settings, cannot be read.
    """
    kept = trusted_folders().get(str(work_tree.resolve()))
    if kept is None:
        return Standing.UNTRUSTED
    return Standing.TRUSTED if kept == fingerprint(work_tree) else Standing.CHANGED


def trusted_folders() -> Mapping[str, str]:
    """Fingerprints by folder.

    Raises:
        SettingsFault: the list cannot be read.
    """
    path = paths.trusted_folders()
    try:
        return _Kept.model_validate_json(path.read_bytes()).folders
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as fault:
        raise SettingsFault(
            f"{path} cannot be read ({cause_of(fault)}); remove it, and no folder is trusted"
        ) from fault


def trust(work_tree: Path) -> None:
    """Trust a folder as it stands.

    Raises:
        SettingsFault: the list cannot be read or written.
    """
    _write({**trusted_folders(), str(work_tree.resolve()): fingerprint(work_tree)})


def forget(work_tree: Path) -> bool:
    """Trust a folder no longer; whether it was in the list.

    Raises:
        SettingsFault: the list cannot be read or written.
    """
    folders = dict(trusted_folders())
    was_there = folders.pop(str(work_tree.resolve()), None) is not None
    if was_there:
        _write(folders)
    return was_there


def _write(folders: Mapping[str, str]) -> None:
    path = paths.trusted_folders()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps({"folders": folders}, indent=2) + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as fault:
        raise SettingsFault(f"{path} cannot be written ({fault.strerror}); nothing was changed") from fault
