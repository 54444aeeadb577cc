"""What a tool is: a declaration, an argument model, and a run that streams output and ends with one result.

A *result* is data, also when it tells of a failure: bad arguments, a missing file, a command that exits 1. It goes
back to the model. A *fault* is raised: a `SandboxError` when the box itself fails, anything else when there is a bug.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from pydantic import BaseModel, ConfigDict, JsonValue

from kodkod_engine.messages import ToolSpec
from kodkod_sandbox.base import Channel, Sandbox
from kodkod_tools.config import ToolsConfig
from kodkod_tools.jobs import Jobs


class ErrorCode(StrEnum):
    """Why a call did not do what was asked; closed, so that an agent can act on it."""

    MALFORMED_CALL = "malformed_call"
    UNKNOWN_TOOL = "unknown_tool"
    BAD_ARGUMENTS = "bad_arguments"
    NOT_FOUND = "not_found"
    NOT_A_FILE = "not_a_file"
    OUTSIDE_TREE = "outside_tree"
    PROTECTED = "protected"
    """Inside the tree, but not the model's to write: git's own files."""
    PERMISSION = "permission"
    BINARY = "binary"
    ENCODING = "encoding"
    """A character the file's encoding does not have."""
    TOO_LARGE = "too_large"
    NO_MATCH = "no_match"
    AMBIGUOUS = "ambiguous"
    NO_CHANGE = "no_change"
    CONFLICT = "conflict"
    """Changed by someone else meanwhile, or a merge waits to be resolved."""
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"
    """A program the tool needs is not installed, or there is no git repository."""
    FAILED = "failed"
    """A program the tool ran refused, in its own words."""
    SYSTEM = "system"
    """The operating system refused: disk full, name too long, ..."""


class Effect(StrEnum):
    """What a tool may do to the world; permissions start from it."""

    READS = "reads"
    WRITES = "writes"
    EXECUTES = "executes"
    EXTERNAL = "external"
    """Acts through another program, outside the box: what it did cannot be put back."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class FileDiff:
    """A change to one file, for a person to look at."""

    path: str
    """Relative to the work tree."""
    unified: str
    added: int
    """Lines."""
    removed: int
    created: bool = False


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """A piece of a running command's output, as it comes; for the screen alone."""

    text: str
    channel: Channel = Channel.STDOUT


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How a call ended."""

    for_model: str
    """Bounded by `ToolsConfig.max_result_chars`."""
    for_person: str | FileDiff = ""
    """One line, or a diff; empty where `for_model` serves both."""
    for_log: str | Path = ""
    """The whole output, or the file that holds it; empty where `for_model` is all there is."""
    error: ErrorCode | None = None
    changed_paths: tuple[str, ...] = ()
    """Files this call is known to have changed, relative to the work tree. A shell command's are not known."""
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    """What an agent decides by: `exit_code`, test counts, `finishes`. Each tool's docstring names its own."""


ToolStream = AsyncGenerator[ToolOutput | ToolResult, None]
"""A call as it goes: pieces of output, then exactly one result. Closing it early (`aclose`) ends the call."""


class ToolError(Exception):
    """Ends a tool's work with an error result; never leaves `registry.run_call`."""

    def __init__(self, code: ErrorCode, message: str, **facts: JsonValue) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.facts = facts

    def as_result(self) -> ToolResult:
        """The result the model reads."""
        return ToolResult(f"error: {self.message}", error=self.code, facts=self.facts)


_MAX_WORD_BYTES = 128 * 1024 - 1
"""What Linux takes of one argument of a program."""


def require_passable(*words: str) -> None:
    """That a program can be given these as arguments.

    Raises:
        ToolError: `BAD_ARGUMENTS`.
    """
    for word in words:
        if fault := _not_passable(word):
            raise ToolError(ErrorCode.BAD_ARGUMENTS, f"no program can be given {fault}")


def _not_passable(word: str) -> str:
    if "\0" in word:
        return "a zero byte; leave it out"
    try:
        size = len(word.encode("utf-8"))
    except UnicodeEncodeError:
        return "half of a character; leave it out"
    return f"{size:,} bytes at once; write them to a file" if size > _MAX_WORD_BYTES else ""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """Where tools act. Own one per run of an agent and close it: background jobs die with it.

    Cancelling the task that runs a tool cancels the tool, and kills the command it runs.
    """

    sandbox: Sandbox
    work_tree: Path
    """Absolute and resolved; the same as the box's."""
    config: ToolsConfig
    log_folder: Path
    """Where whole outputs are kept; outside the work tree. `view` and `search` may read here."""
    jobs: Jobs = field(default_factory=Jobs)
    more: Mapping[str, ForeignTool] = field(default_factory=dict)
    """Tools of other programs by name. May change while a session goes on; a name of ours is never looked up here."""

    async def close(self) -> None:
        """Kill the background jobs. Idempotent."""
        await self.jobs.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Arguments(BaseModel):
    """What a model passes to a tool: unknown fields are refused, numbers and booleans may come as text."""

    model_config = ConfigDict(frozen=True, extra="forbid")


ArgumentsT_contra = TypeVar("ArgumentsT_contra", bound=Arguments, contravariant=True)


class Tool(Protocol[ArgumentsT_contra]):
    """One thing a model can do."""

    @property
    def spec(self) -> ToolSpec:
        """As the model is told of it."""
        ...

    @property
    def arguments(self) -> type[Any]:
        """The `Arguments` model that `run` takes."""
        ...

    @property
    def effect(self) -> Effect:
        """The most it may do."""
        ...

    def run(self, arguments: ArgumentsT_contra, context: ToolContext) -> ToolStream:
        """Do it: pieces of output, then exactly one result, last.

        Raises:
            ToolError: an error result (`registry.run_call` turns it into one).
            SandboxError: the box failed.
        """
        ...


class ForeignTool(Tool[Any], Protocol):
    """A tool of another program, such as an MCP server. What it says of itself is data and permits nothing."""

    @property
    def server(self) -> str:
        """Name of the program's entry in the settings."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names this very definition: another description or schema has another."""
        ...
