"""Which folders a person trusts to start programs outside the box: those that `kodkod trust` was said of.

What a project would start (its MCP servers and hooks) or open (settings that widen) may change with the next pull. So
trust is given to a folder as it stands: its fingerprint is kept, and a folder that has another is no longer trusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kodkod_agent.errors import cause_of
from kodkod_agent.fitness import require_text_name
from kodkod_agent.hooks import Hook
from kodkod_app import paths
from kodkod_app.settings import (
    Layer,
    Layers,
    Settings,
    SettingsFault,
    hooks_of,
    merge_sources,
    of_project,
    read_layers,
    widening,
    without,
)
from kodkod_app.whole_file import replace_text
from kodkod_tools.mcp.config import NamedServers, read_project_file


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


@dataclass(frozen=True, slots=True)
class Asked:
    """What a project asks trust for, read once: what is shown, trusted and used is the same."""

    named: NamedServers
    hooks: tuple[Hook, ...]
    widening: Layer
    """Settings that open more than a stranger may."""

    @property
    def fingerprint(self) -> str:
        """Names it: the servers' whole file, hooks, and these settings; others are changed for other reasons."""
        hooks = json.dumps([hook.model_dump(mode="json") for hook in self.hooks]).encode() if self.hooks else b""
        parts = [self.named.source, hooks]
        parts += [json.dumps(self.widening, sort_keys=True, default=str).encode()] if self.widening else []
        return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def read_asked(work_tree: Path) -> Asked:
    """Look, trusted or not.

    Raises:
        SettingsFault: the project's settings cannot be read.
    """
    layer = of_project(work_tree)
    return Asked(read_project_file(work_tree), hooks_of(layer), widening(layer))


def session_layers(
    work_tree: Path, *, trusted: bool, environment: Mapping[str, str], flags: Mapping[str, Any] | None = None
) -> Layers:
    """What a session on a project goes by: one that is not trusted opens nothing more.

    Args:
        work_tree: the project.
        trusted: the person said so for this once.
        environment: variables of the process.
        flags: what was said on the command line.

    Raises:
        SettingsFault: as `read_layers`, or the list of trusted folders cannot be read.
    """
    layers = read_layers(work_tree, trusted=True, environment=environment, flags=flags)
    opened = widening(layers.project)
    if trusted or not opened:
        return layers
    asked = read_asked(work_tree)
    if asked.widening == opened and standing(work_tree, asked) is Standing.TRUSTED:
        return layers
    return replace(layers, project=without(layers.project, opened))


def session_settings(
    work_tree: Path, *, trusted: bool, environment: Mapping[str, str], flags: Mapping[str, Any] | None = None
) -> Settings:
    """The layers of `session_layers`, put together."""
    layers = session_layers(work_tree, trusted=trusted, environment=environment, flags=flags)
    return merge_sources(layers, trusted=True)


def standing(work_tree: Path, asked: Asked | None = None) -> Standing:
    """How a folder stands, with what it asks for, if that was read already.

    Raises:
        SettingsFault: the list, or the project's settings, cannot be read.
    """
    kept = trusted_folders().get(str(work_tree.resolve()))
    if kept is None:
        return Standing.UNTRUSTED
    return Standing.TRUSTED if kept == (asked or read_asked(work_tree)).fingerprint else Standing.CHANGED


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


def trust(work_tree: Path, asked: Asked) -> None:
    """Trust a folder with what the person was shown of it.

    Raises:
        WorkTreeUnfit: its name cannot be written down.
        SettingsFault: the list cannot be read or written.
    """
    require_text_name(work_tree.resolve())
    _write({**trusted_folders(), str(work_tree.resolve()): asked.fingerprint})


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
        replace_text(path, json.dumps({"folders": folders}, indent=2) + "\n")
    except OSError as fault:
        raise SettingsFault(f"{path} cannot be written ({fault.strerror}); nothing was changed") from fault
