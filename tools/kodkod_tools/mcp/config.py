"""Which MCP servers there are: tables in the person's settings, and a project's `.mcp.json`.

    {"mcpServers": {"notes": {"command": "notes-server", "args": ["--root", "${HOME}/notes"]},
                    "tickets": {"type": "http", "url": "https://localhost:8443/mcp",
                                "headers": {"Authorization": "Bearer ${TICKETS_TOKEN}"}}}}

`${NAME}` and `${NAME:-otherwise}` stand for variables of kodkod's own environment, in every text but names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kodkod_tools.schema import in_plain_words
from kodkod_tools.small_files import read_small

PROJECT_FILE = ".mcp.json"
MAX_FILE_BYTES = 256 * 1024
MAX_SERVERS = 32
_NAME = re.compile(r"(?!.*__)[A-Za-z0-9][A-Za-z0-9_-]{0,31}(?<!_)")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_TYPES = {"streamable-http": "http", "streamable_http": "http"}


class McpServer(BaseModel):
    """How one server is reached: a `command` that is started, or the `url` of one that runs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    type: Literal["stdio", "http"] | None = None
    """Follows from `command` or `url` where it is not said."""
    command: str | None = Field(default=None, min_length=1)
    """A program, started on this machine outside the box, as the person."""
    args: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    """Variables it sees besides `HOME`, `LOGNAME`, `PATH`, `SHELL`, `TERM` and `USER`."""
    cwd: str | None = None
    """Where it is started; relative to the project. [default: the project]"""
    url: str | None = Field(default=None, pattern=r"^(https?://|\$\{)")
    """Of a server that speaks streamable HTTP."""
    headers: dict[str, str] = Field(default_factory=dict)
    start_timeout_s: float = Field(default=20.0, gt=0, le=600)
    """Until its tools are known; it is waited for no longer."""
    call_timeout_s: float = Field(default=120.0, gt=0, le=3_600)
    """Of one call."""

    @model_validator(mode="before")
    @classmethod
    def _common_names(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("type") in _TYPES:
            return {**data, "type": _TYPES[data["type"]]}
        return data

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("name either a command or a url")
        if self.type is not None and (self.type == "http") != (self.url is not None):
            raise ValueError(f"type {self.type} does not go with {'a url' if self.url else 'a command'}")
        return self

    def shown(self) -> str:
        """What it is, in one line and before any variable is filled in."""
        return self.url or " ".join([self.command or "", *self.args])

    def told(self) -> str:
        """All of it that decides what is started and what it learns, in one line, before any variable is filled in."""
        if self.url:
            return " ".join([self.url, *(f"[{name}: {value}]" for name, value in self.headers.items())])
        variables = [f"{name}={value}" for name, value in self.env.items()]
        return " ".join([*variables, self.command or "", *self.args, *([f"[in {self.cwd}]"] if self.cwd else [])])

    def expanded(self, environment: Mapping[str, str]) -> McpServer:
        """With variables filled in.

        Raises:
            ValueError: one is not set.
        """

        def fill(value: Any) -> Any:
            if isinstance(value, str):
                return _filled(value, environment)
            if isinstance(value, Mapping):
                return {key: fill(item) for key, item in value.items()}
            return [fill(item) for item in value] if isinstance(value, list | tuple) else value

        return McpServer.model_validate(fill(self.model_dump()))


def _filled(text: str, environment: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name, otherwise = found[1], found[2]
        if name in environment:
            return environment[name]
        if otherwise is None:
            raise ValueError(f"${{{name}}} is not set; set it, or write ${{{name}:-otherwise}}")
        return otherwise

    return _VARIABLE.sub(value, text)


@dataclass(frozen=True, slots=True)
class NamedServers:
    """Servers by name, and what could not be read, one line each."""

    servers: Mapping[str, McpServer] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    source: bytes = field(default=b"", compare=False)
    """The whole file, or the number of the error that reading it gave."""


def read_project_file(work_tree: Path) -> NamedServers:
    """A project's servers. Keys that other programs have in the file are passed over; faults are told, never raised."""
    path = work_tree / PROJECT_FILE
    try:
        source = read_small(path, MAX_FILE_BYTES)
    except OSError as fault:
        is_there = not isinstance(fault, FileNotFoundError)
        faults = (f"{path} cannot be read ({_one_line(fault)}); mend or remove it",) if is_there else ()
        return NamedServers(faults=faults, source=str(fault.errno).encode())
    return replace(_read_named(source, path), source=source)


def _read_named(source: bytes, path: Path) -> NamedServers:
    try:
        named = json.loads(source.decode("utf-8-sig")).get("mcpServers", {})
        entries = dict(named)
    except UnicodeDecodeError as fault:
        return NamedServers(faults=(f"{path} cannot be read ({_one_line(fault)}); mend or remove it",))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return NamedServers(faults=(f'{path} is not {{"mcpServers": {{NAME: ...}}}}; mend or remove it',))
    return read_servers(entries, str(path), ignore_unknown=True)


def read_servers(entries: Mapping[str, Any], source: str, *, ignore_unknown: bool = False) -> NamedServers:
    """Servers from plain values, each for itself: one that cannot be is named and left out."""
    servers: dict[str, McpServer] = {}
    faults: list[str] = []
    for name, entry in entries.items():
        if len(servers) >= MAX_SERVERS:
            faults.append(f"{source}: there are more than {MAX_SERVERS} MCP servers; the rest are left out")
            break
        try:
            servers[require_name(name)] = _server(entry, ignore_unknown=ignore_unknown)
        except ValueError as fault:
            faults.append(f"{source}: MCP server {_shown(name)}: {_cause(fault)}; it is left out")
    return NamedServers(servers, tuple(faults))


def require_name(name: str) -> str:
    """A server's name that can be part of a tool's.

    Raises:
        ValueError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("a name has up to 32 letters, digits, - and single _, and begins with a letter or digit")
    return name


def _server(entry: Any, *, ignore_unknown: bool) -> McpServer:
    if isinstance(entry, Mapping):
        if entry.get("type") == "sse":
            raise ValueError("the transport sse is not spoken; use http")
        if ignore_unknown:
            entry = {key: value for key, value in entry.items() if key in McpServer.model_fields}
    return McpServer.model_validate(entry)


def _cause(fault: ValueError) -> str:
    if not isinstance(fault, ValidationError):
        return _one_line(fault)
    first = fault.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    cause = in_plain_words(first["msg"])
    return _one_line(f"{place}: {cause}" if place else cause)


def _shown(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:39]}…")


def _one_line(cause: object) -> str:
    return " ".join(str(cause).split())
