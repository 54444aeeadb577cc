"""Skills: written instructions for certain tasks, in folders. The model is told what there is, and reads what it needs.

SKILLS/
  release-notes/
    SKILL.md          ---
                      name: release-notes
                      description: How release notes are written here. Use it when asked for some.
                      ---
                      Read CHANGELOG.md first. ...
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kodkod_tools.small_files import read_small
from kodkod_tools.text.cleaned import cleaned, one_line

FILE_NAME = "SKILL.md"
SKILL_PAGES = "skill-*.md"
"""Copies of pages in a session's log folder."""
MAX_FILE_BYTES = 64 * 1024
MAX_DESCRIPTION_CHARS = 1_024
MAX_SKILLS = 64
_MAX_HEAD_CHARS = 8_000
_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_HEAD = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


class _Head(BaseModel):
    """What stands before the text. Other programs' keys are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    name: str = Field(min_length=1, max_length=64)
    description: str = Field(min_length=1, max_length=MAX_DESCRIPTION_CHARS)


@dataclass(frozen=True, slots=True)
class Skill:
    """One skill, its text unread."""

    name: str
    description: str
    """On one line: what it is about, and when to use it."""
    file: Path
    """Absolute."""


@dataclass(frozen=True, slots=True)
class Skills:
    """What a folder holds, and what could not be read, a line each."""

    found: tuple[Skill, ...] = ()
    faults: tuple[str, ...] = ()


def read_skills(folder: Path, inside: Path) -> Skills:
    """The skills in a folder, by name. Nothing is raised: one that cannot be is named and passed over.

    Args:
        folder: need not be there.
        inside: a file that lies elsewhere, by a link say, is none.
    """
    try:
        files = sorted(folder.glob(f"*/{FILE_NAME}"))
    except OSError as fault:
        return Skills(faults=(f"{folder} cannot be read ({fault.strerror}); no skill of it is used",))
    found: list[Skill] = []
    faults: list[str] = []
    for file in files[:MAX_SKILLS]:
        try:
            found.append(_read(file, inside.resolve()))
        except (OSError, ValueError) as fault:
            faults.append(one_line(f"{file}: {_cause(fault)}; the skill is not used"))
    if len(files) > MAX_SKILLS:
        faults.append(f"{folder} holds more than {MAX_SKILLS} skills; the rest are not used")
    return Skills(tuple(found), tuple(faults))


def _read(file: Path, inside: Path) -> Skill:
    if not file.resolve().is_relative_to(inside):
        raise ValueError("it lies elsewhere")
    head = _head(read_small(file, MAX_FILE_BYTES).decode("utf-8-sig"))
    if not _NAME.fullmatch(head.name) or head.name != file.parent.name:
        raise ValueError("its name is not that of its folder, in small letters, digits and single -")
    return Skill(head.name, one_line(head.description, MAX_DESCRIPTION_CHARS), file.absolute())


def _head(text: str) -> _Head:
    found = _HEAD.match(text)
    if found is None or len(found[1]) > _MAX_HEAD_CHARS:
        raise ValueError("it does not begin with a head between two lines of ---")
    try:
        return _Head.model_validate(yaml.safe_load(found[1]))
    except (yaml.YAMLError, RecursionError) as fault:
        raise ValueError("its head is no YAML") from fault


def _cause(fault: Exception) -> str:
    if isinstance(fault, ValidationError):
        first = fault.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc'])) or 'its head'}: {first['msg']}"
    if isinstance(fault, OSError):
        return fault.strerror or str(fault)
    return "it is not UTF-8" if isinstance(fault, UnicodeDecodeError) else str(fault)


def _copied(file: Path, copy: Path) -> bool:
    """False where it is gone meanwhile."""
    try:
        text = cleaned(file.read_text(encoding="utf-8", errors="replace"))
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
    except OSError:
        return False
    return True


def listed(skills: Iterable[Skill], work_tree: Path, logs: Path, max_chars: int) -> tuple[str, list[str]]:
    """What the model is told of them, and the names of those for which there is no room.

    Those of the work tree are viewed where they lie. The others are copied among the session's logs, where the model
    may look: what it read is kept with the session.
    """
    lines: list[str] = []
    left_out: list[str] = []
    for skill in skills:
        is_inside = skill.file.is_relative_to(work_tree)
        shown = skill.file.relative_to(work_tree) if is_inside else logs / f"skill-{skill.name}.md"
        line = f"- {skill.name}: {skill.description} (view {shown})"
        max_chars -= len(line) + 1
        if max_chars < 0:
            left_out.append(skill.name)
            continue
        if is_inside or _copied(skill.file, logs / shown):
            lines.append(line)
    return "\n".join(lines), left_out
