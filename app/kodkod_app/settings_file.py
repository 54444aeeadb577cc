"""Writing the person's settings: one key at a time, comments and order kept."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Table

from kodkod_agent.rules import Rule
from kodkod_app.settings import SettingsFault, checked


def save_value(path: Path, key: str, value: Any) -> None:
    """Set a key, or take it out with None; the file and its folder are made when missing.

    Args:
        path: of the file.
        key: with its section, as `agent.max_turns`.
        value: plain.

    Raises:
        SettingsFault: the file cannot be read or written, or the value is none the key can have.
    """
    document = _read(path)
    *sections, name = key.split(".")
    place: Any = document
    for section in sections:
        if section not in place and value is None:
            return
        place = place.setdefault(section, tomlkit.table())
        if not isinstance(place, dict):
            raise SettingsFault(f"{path}: {section}: a section cannot have a value of its own; correct or remove it")
    if value is None:
        place.pop(name, None)
    else:
        place[name] = value
    _drop_empty(document, sections)
    _write(path, tomlkit.dumps(document))


def save_allowed(path: Path, rules: tuple[Rule, ...]) -> None:
    """Add rules to those that are allowed.

    Raises:
        SettingsFault: the file cannot be read or written.
    """
    document = _read(path)
    allowed = document.setdefault("permissions", tomlkit.table()).setdefault("allow", tomlkit.array())
    for rule in map(str, rules):
        if rule not in allowed:
            allowed.append(rule)
    _write(path, tomlkit.dumps(document))


def _read(path: Path) -> tomlkit.TOMLDocument:
    try:
        return tomlkit.parse(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return tomlkit.document()
    except (OSError, UnicodeDecodeError, TOMLKitError) as fault:
        cause = " ".join(str(fault).split())
        raise SettingsFault(f"{path} cannot be read ({cause}); mend or remove it") from fault


def _drop_empty(document: tomlkit.TOMLDocument, sections: list[str]) -> None:
    """A section with nothing in it, comments included, is of no use."""
    if len(sections) == 1 and isinstance(table := document.get(sections[0]), Table) and not table.as_string().strip():
        document.remove(sections[0])


def _write(path: Path, text: str) -> None:
    """In one step, once the whole of it is known to be good."""
    checked(tomllib.loads(text), str(path))
    # A link to the file, as keepers of dot files have it, stays one; the other end may be on another disk.
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(mode=0o600)  # nobody else's to read, at no moment: a server's headers may be in it
        temporary.write_text(text, encoding="utf-8")
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o7777)
        temporary.replace(target)
    except OSError as fault:
        temporary.unlink(missing_ok=True)
        raise SettingsFault(f"{path} cannot be written ({fault.strerror}); look at its folder's rights") from fault
