"""Which calls make sense now: for a model that is too small to be left to itself.

    test, and where the failing tests ran ─► view one of those places ─► edit a line there ─► test ─► finish
                                               ▲                                               │
                                               └────────────── take the edit back ◄────────────┘

What is offered follows from the conversation and the files as they are, and from nothing that is kept elsewhere: so a
session that was resumed, forked or rewound is offered what it would have been. Which of the offered calls is made, and
with which of the offered values, is the model's choice; where one alone is left its tokens cost next to nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from kodkod_agent.line_syntax import LineSyntax
from kodkod_agent.progress import Progress, Tests, TriedEdit, read_progress
from kodkod_agent.ranking import EditRanker, Evidence, RankedEdit
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import OneOf
from kodkod_engine.constraints.call_constraint import CallConstraint
from kodkod_engine.constraints.free_text import FreeText
from kodkod_engine.constraints.patterns import Argument, CallPattern, call, rows
from kodkod_engine.constraints.spans import SpanOfLine
from kodkod_engine.messages import Message
from kodkod_tools.base import ToolContext, ToolError
from kodkod_tools.files import parse_python, read_text
from kodkod_tools.paths import resolve_writable

PASSED = "The failing tests pass now."
NONE_FAILS = "No test fails, so nothing was changed."
FAILED = "The failing tests still fail."
NOTHING_TO_GO_BY = "No test was run, or none says where it fails, so nothing was changed."
_MAX_NEW_TOKENS = 40


class Files(Protocol):
    """The work tree as it is now."""

    def text(self, path: str) -> str | None:
        """A file's text; None when it cannot be read."""
        ...


@dataclass(frozen=True, slots=True)
class WorkTreeFiles:
    """See `Files`."""

    tools: ToolContext

    def text(self, path: str) -> str | None:
        """See `Files`."""
        try:
            return read_text(resolve_writable(self.tools, path), self.tools.config.max_edit_bytes).text
        except ToolError:
            return None


@dataclass(frozen=True, slots=True)
class Guide:
    """Offers calls. Blocking, for it reads files: to be used from a thread."""

    tokenizer: Tokenizer
    files: Files
    max_tries: int = 8
    """Edits, before it is over."""
    ranker: EditRanker | None = None
    """Names the edits that are offered; None, or where it knows none: any that the line's syntax allows."""
    max_ranked: int = 24
    """Of them, offered at a time."""

    def constraint(self, messages: Sequence[Message]) -> CallConstraint:
        """What the next turn may be.

        Args:
            messages: the conversation from its start (`TokenLedger.view`).
        """
        return CallConstraint(self.tokenizer, self.patterns(messages))

    def patterns(self, messages: Sequence[Message]) -> list[CallPattern]:
        """The calls that make sense, at least one."""
        progress = read_progress(messages)
        if progress.tests is Tests.PASSED:
            return [self._finish(PASSED if progress.edits else NONE_FAILS)]
        if progress.tests is Tests.UNKNOWN:
            return [self._test(progress)]
        if progress.standing is not None:
            return [self._undo(progress.standing)]
        if progress.edits >= self.max_tries:
            return [self._finish(FAILED)]
        ranked = self.ranked(progress)
        free = ranked is None
        found = [*self._views(progress), *self._edits(progress)] if free else self._among(progress, ranked or [])
        return found or [self._finish(FAILED if progress.suspects else NOTHING_TO_GO_BY)]

    def named(self, progress: Progress) -> list[RankedEdit] | None:
        """The plausible edits among which it is to be chosen now; None where it is time for something else."""
        is_time = progress.tests is Tests.FAILED and progress.standing is None and progress.edits < self.max_tries
        return self.ranked(progress) if is_time else None

    def ranked(self, progress: Progress) -> list[RankedEdit] | None:
        """The plausible edits that were not tried, the most probable first; None where nobody knows any."""
        if self.ranker is None or not progress.suspects:
            return None
        found = {path: self.files.text(path) for path in {suspect.path for suspect in progress.suspects}}
        texts = {path: text for path, text in found.items() if text is not None}
        tried = {(edit.path, edit.line, edit.after) for edit in progress.tried}
        evidence = Evidence(progress.suspects, progress.output, texts)
        ranked = self.ranker.ranked(evidence, self.max_ranked + len(tried))
        if not ranked:
            return None
        return [edit for edit in ranked if _changed(edit, texts) not in tried][: self.max_ranked]

    def _among(self, progress: Progress, ranked: Sequence[RankedEdit]) -> list[CallPattern]:
        """A view of a suspect that has some of these edits, or one of those edits whose line was seen."""
        hidden = [edit for edit in ranked if progress.line(edit.path, edit.line) is None]
        places = [one.as_row for one in progress.suspects if any(edit.is_in(one) for edit in hidden)]
        seen = [edit.as_row for edit in ranked if progress.line(edit.path, edit.line) is not None]
        found = []
        if places:
            found.append(CallPattern("view", rows(self.tokenizer, ("path", "start", "end"), places)))
        if seen:
            found.append(CallPattern("edit", rows(self.tokenizer, ("path", "line", "old", "new"), seen)))
        return found

    def _test(self, progress: Progress) -> CallPattern:
        if progress.suspects:
            return call("test")
        return call("test", ("locate", self._one("true")))

    def _finish(self, summary: str) -> CallPattern:
        return call("finish", ("summary", self._one(summary)))

    def _undo(self, edit: TriedEdit) -> CallPattern:
        """Put the line back: never the whole file, which may hold a person's work that was not committed."""
        line, old, new = map(self._one, (str(edit.line), edit.after, edit.before))
        return call("edit", ("path", self._one(edit.path)), ("line", line), ("old", old), ("new", new))

    def _views(self, progress: Progress) -> list[CallPattern]:
        places = [suspect.as_row for suspect in progress.suspects if suspect.as_row not in progress.views]
        return [CallPattern("view", rows(self.tokenizer, ("path", "start", "end"), places))] if places else []

    def _edits(self, progress: Progress) -> list[CallPattern]:
        texts = {path: self.files.text(path) for path in progress.shown}
        places = [(path, line) for path, text in texts.items() if text for line in _open_lines(progress, path, text)]
        if not places:
            return []

        def at_line(row: Sequence[str]) -> Argument:
            path, line = row[0], int(row[1])
            return self._old(_Place(path, line, texts[path] or "", progress.tried))

        table = [(path, str(line)) for path, line in places]
        return [CallPattern("edit", rows(self.tokenizer, ("path", "line"), table, at_line))]

    def _old(self, place: _Place) -> Argument:
        syntax = LineSyntax(place.text, place.line) if place.path.endswith((".py", ".pyi")) else None
        before = _line(place.text, place.line)
        refused = {edit.after for edit in place.tried if (edit.path, edit.line) == (place.path, place.line)} | {before}

        def may_be(old: str, new: str) -> bool:
            after = before.replace(old, new)
            return bool(after.strip()) and after not in refused and (syntax is None or syntax.accepts(after))

        def then(old: str) -> Argument:
            return Argument("new", FreeText(self.tokenizer, _MAX_NEW_TOKENS, partial(may_be, old)))

        return Argument("old", SpanOfLine(self.tokenizer, before), then)

    def _one(self, text: str) -> OneOf:
        return OneOf(self.tokenizer, [text])


def _changed(edit: RankedEdit, texts: Mapping[str, str]) -> tuple[str, int, str]:
    """Path, line, and what the line becomes."""
    return edit.path, edit.line, _line(texts[edit.path], edit.line).replace(edit.old, edit.new)


@dataclass(frozen=True, slots=True)
class _Place:
    """A line that may be edited."""

    path: str
    line: int
    text: str
    """Of the file."""
    tried: Sequence[TriedEdit]


def _open_lines(progress: Progress, path: str, text: str) -> list[int]:
    """Lines of a file that were shown, hold code, and still are what was shown.

    Not only those that the tests ran: a wrong default is in a header, and what is missing is beside what ran.
    """
    now = dict(enumerate(map(_without_end, text.split("\n")), 1))
    shown, silent = progress.shown[path].items(), _silent_lines(text) if path.endswith((".py", ".pyi")) else frozenset()
    return [number for number, line in shown if _is_code(line) and number not in silent and now.get(number) == line]


def _silent_lines(text: str) -> frozenset[int]:
    """Lines of docstrings: nothing that runs is on them."""
    try:
        tree = parse_python(text)
    except SyntaxError:
        return frozenset()
    alone = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    strings = (node for node in alone if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return frozenset(line for node in strings for line in range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _is_code(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _line(text: str, number: int) -> str:
    return _without_end(text.split("\n")[number - 1])


def _without_end(line: str) -> str:
    return line.removesuffix("\r")
