"""Calls held against what they promise, by other means than the constraint's: the parser, the tools' argument models,
the files read anew; and those that only look or write are done, by the real tools, in a copy of the tree.

The copy is put back after each turn, so that a turn's second call meets what its first one left, and the next turn the
tree as it was. Nothing that runs a program (`shell`, `test`, `git`) is ever done: a model drew it at random.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import wsgiref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kodkod_engine.messages import ToolCall
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.none import NoSandbox
from kodkod_tools import registry
from kodkod_tools.base import ErrorCode, ToolContext, ToolError, ToolResult
from kodkod_tools.config import ToolsConfig

PACKAGES = (json, wsgiref)
"""Sources that every Python has: what most paths lead to, and most edits quote."""
ODD = {
    "odd/inner/grüße.txt": "Grüße, 你好 👩‍💻\nnaïve\tcafé".encode(),
    "odd/crlf.ini": b"[a]\r\nx = 1\r\ny = 2\r\n",
    "odd/tags.md": b"# Title\n\nSome words, `code`, and </longcat_arg_value> in a text.\n",
    "odd/latin.txt": "größer\n".encode("latin-1"),
    "odd/data.bin": bytes(range(256)) * 4,
    "odd/empty/__init__.py": b"",
    "odd/one_line": b"no line feed at the end",
    ".gitignore": b"ignored/\n",
    "ignored/seen.py": b"z = 3\n",
}
"""What trees hold besides: signs of all kinds, other line ends and encodings, nothing at all, no text."""
DONE = ("view", "edit", "write", "find")
BROKEN = {
    ErrorCode.MALFORMED_CALL, ErrorCode.UNKNOWN_TOOL, ErrorCode.BAD_ARGUMENTS, ErrorCode.NOT_FOUND,
    ErrorCode.OUTSIDE_TREE, ErrorCode.PROTECTED, ErrorCode.NO_MATCH, ErrorCode.AMBIGUOUS,
}  # fmt: skip
"""Answers of a tool that the constraint rules out. Others it does not: new text like the old, a sign that the file's
encoding lacks, a name that is too long for the disk, a binary file that is looked at.
"""


FREE = {"find": {ErrorCode.BAD_ARGUMENTS}}
"""A name is any text, and not each is a glob."""


class CheckedCall(BaseModel):
    """What came of one call."""

    tool: str
    held: dict[str, bool]
    """Property: whether the call has it. Only those that the call can have at all."""
    outcome: str = ""
    """`done`, or the tool's error code; empty where it was not done."""
    text: str = ""
    """The call, where it lacks a property."""

    @property
    def is_sound(self) -> bool:
        """All properties hold."""
        return all(self.held.values())


def make_tree(folder: Path) -> Path:
    """A repository with real sources and odd files in it; nobody changes it. Resolved."""
    for package in PACKAGES:
        source = Path(sysconfig.get_paths()["stdlib"]) / package.__name__
        shutil.copytree(source, folder / package.__name__, ignore=shutil.ignore_patterns("__pycache__"))
    for name, data in ODD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (folder / "link").symlink_to("odd")
    (folder / "out").symlink_to("/etc")
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder.resolve()


def context_of(tree: Path, logs: Path) -> ToolContext:
    """What tools act in: the tree, and a log that may be looked at."""
    logs.mkdir(exist_ok=True)
    (logs / "test-1.log").write_text("tests/test_a.py F\n1 failed, 41 passed\n", encoding="utf-8")
    return ToolContext(NoSandbox(BoxOptions(work_tree=tree)), tree, ToolsConfig(), logs)


@dataclass
class Checker:
    """Checks turns one after another, in a copy of its own."""

    tree: Path
    """That the constraint reads; never changed."""
    tools: ToolContext
    """On the copy."""
    _touched: list[str] = field(default_factory=list)

    @classmethod
    def beside(cls, tools: ToolContext, folder: Path) -> Checker:
        """One for a tree.

        Args:
            tools: on the tree.
            folder: where the copy is put; not there yet.
        """
        shutil.copytree(tools.work_tree, folder, symlinks=True)
        copy = folder.resolve()
        return cls(tools.work_tree, replace(tools, sandbox=NoSandbox(BoxOptions(work_tree=copy)), work_tree=copy))

    async def turn(self, calls: Sequence[ToolCall]) -> list[CheckedCall]:
        """Check the calls of one turn, each after what those before it did."""
        try:
            return [await self._call(call) for call in calls]
        finally:
            self._put_back()

    async def _call(self, call: ToolCall) -> CheckedCall:
        found = CheckedCall(tool=call.name, held=dict(self._properties(call)))
        if call.name in DONE and found.is_sound:
            found.outcome = await self._done(call)
            found.held["the tool takes it"] = found.outcome not in BROKEN - FREE.get(call.name, set())
        if not found.is_sound:
            found.text = call.model_dump_json()
        return found

    def _properties(self, call: ToolCall) -> Iterator[tuple[str, bool]]:
        yield "parses", call.fault is None
        yield "names a declared tool", call.name in {spec.name for spec in registry.specs()}
        yield "its arguments fit the schema", _fits(call)
        path = call.arguments.get("path")
        if isinstance(path, str):
            yield from self._of_path(call, self._in_copy(path))

    def _of_path(self, call: ToolCall, path: Path) -> Iterator[tuple[str, bool]]:
        if call.name == "write":
            yield "it writes inside the tree", self._may_be_written(path)
        if call.name not in ("view", "search", "find", "edit"):
            return
        yield "its path exists", path.is_dir() if call.name == "find" else path.exists()
        text = _text(path)
        if call.name == "edit":
            yield "old stands in the file", call.arguments.get("old") in _decoded(path)
        named = [call.arguments[key] for key in ("line", "start", "end", "around") if key in call.arguments]
        if named and text is not None:
            yield "its lines are lines of the file", all(1 <= line <= max(1, _num_lines(text)) for line in named)

    def _in_copy(self, path: str) -> Path:
        """Absolute paths into the tree lead to the same place in the copy."""
        inside = path.removeprefix(f"{self.tree}/") if path != str(self.tree) else "."
        return self.tools.work_tree / inside

    def _may_be_written(self, path: Path) -> bool:
        resolved = path.resolve()
        if not resolved.is_relative_to(self.tools.work_tree) or resolved.is_dir():
            return False
        return resolved.relative_to(self.tools.work_tree).parts[0] != ".git"

    async def _done(self, call: ToolCall) -> str:
        arguments = dict(call.arguments)
        if "path" in arguments:
            arguments["path"] = str(self._in_copy(arguments["path"]))
        result = await _result(call.model_copy(update={"arguments": arguments}), self.tools)
        self._touched += result.changed_paths
        return result.error or "done"

    def _put_back(self) -> None:
        for name in reversed(self._touched):
            source, target = self.tree / name, self.tools.work_tree / name
            if source.exists():
                shutil.copy2(source, target)
            elif target.exists():
                target.unlink()
                _remove_empty(target.parent, self.tree, self.tools.work_tree)
        self._touched.clear()


def _fits(call: ToolCall) -> bool:
    try:
        registry.parse_call(call)
    except ToolError:
        return False
    return True


def _text(path: Path) -> str | None:
    """A file's text, read without the tools; None where there is none."""
    return _decoded(path) if path.is_file() and b"\0" not in path.read_bytes() else None


def _decoded(path: Path) -> str:
    """What is in a file, as text: also where an edit has just put a zero into it. Empty where there is no file."""
    data = path.read_bytes() if path.is_file() else b""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _num_lines(text: str) -> int:
    return text.count("\n") + (not text.endswith("\n") and text != "")


async def _result(call: ToolCall, tools: ToolContext) -> ToolResult:
    async with aclosing(registry.run_call(call, tools)) as items:
        async for item in items:
            if isinstance(item, ToolResult):
                return item
    raise AssertionError("a call ends with a result")


def _remove_empty(folder: Path, tree: Path, copy: Path) -> None:
    """Folders that only the copy has."""
    while folder != copy and not (tree / folder.relative_to(copy)).exists() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


def shares(checked: Sequence[CheckedCall]) -> Mapping[str, Mapping[str, int]]:
    """By property: how many calls have it, of those that can."""
    found: dict[str, dict[str, int]] = {}
    for call in checked:
        for name, holds in call.held.items():
            share = found.setdefault(name, {"held": 0, "of": 0})
            share["held"] += holds
            share["of"] += 1
    return found


def counts(values: Sequence[Any]) -> dict[Any, int]:
    """How often each occurs, by name."""
    return {value: values.count(value) for value in sorted(set(values))}
