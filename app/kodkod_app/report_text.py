"""A run as text for a person: progress on standard error, the report, or the answer alone, on standard output.

What models and tools wrote is shown with its control characters made visible, and is never read as markup.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import click
from pydantic import JsonValue

from kodkod_agent import events
from kodkod_agent.report import CandidateReport, RunReport
from kodkod_agent.state import Status
from kodkod_app.headless import NOBODY, Scene
from kodkod_app.render import counted, for_terminal, one_line
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import FileDiff

WAY_ON = "go on with    kodkod fix -r {}"
"""How to go on with a session, as the last line of its report."""
WAY_FURTHER = "go on with    kodkod fix -r {} --issue TEXT"
"""The same where all is done."""
ASK_FURTHER = "go on with    kodkod -p TEXT -r {}"
"""The same where a question was answered."""
_MAX_SHOWN_CHARS = 72
_MAX_CAUSE_CHARS = 120
_MAX_PATH_CHARS = 1_000
_TELLING = ("command", "path", "pattern", "query", "targets", "subcommand", "action", "job_id", "job")
"""Arguments that tell what a call is about, the most telling first."""
_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


class TextProgress:
    """One calm line per call, the model's prose as it comes, and what else a person should know."""

    def __init__(self) -> None:
        self._calls: dict[str, ToolCall] = {}
        self._in_line = False
        self._turn_text = ""
        """The prose of the latest turn, as it was shown."""

    def begin(self, scene: Scene) -> None:
        """What the run works with."""
        self._line(f"session {scene.session_id}  model {scene.model}  box {scene.box}  mode {scene.mode}")
        python = f"  tests run in {scene.python}" if scene.python else ""
        self._line(f"work tree {scene.work_tree}{python}")

    def show(self, event: events.Event) -> None:
        """One event."""
        match event:
            case events.TurnStarted():
                self._turn_text = ""
            case events.TextDelta(text):
                self._prose(text)
            case events.CallWritten(call):
                self._calls[call.id] = call
            case events.CallFinished():
                self._line(f"  {_called(event, self._calls.get(event.call_id))}")
            case events.TestsRan(before, facts, _):
                self._line(f"tests {'before' if before else 'after'}: {told_tests(facts)}")
            case events.CandidateEnded(report):
                self._line(f"candidate {report.number}: {_told_candidate(report)}")
            case events.Notice(text):
                self._line(f"note: {text}")
            case events.ContextRebuilt(before, after, _):
                self._line(f"note: {told_shortening(before, after)}")
            case events.RunStarted(_, True):
                self._line("goes on where it was cut short")
            case events.TurnEnded() | events.RunEnded():
                self._end_line()
            case _:
                pass

    def _prose(self, text: str) -> None:
        if text:
            click.echo(for_terminal(text), err=True, nl=False)
            self._in_line = not text.endswith("\n")
            self._turn_text += text

    def _line(self, text: str) -> None:
        self._end_line()
        click.echo(for_terminal(" ".join(text.split("\n"))), err=True)

    def _end_line(self) -> None:
        if self._in_line:
            click.echo(err=True)
            self._in_line = False


class TextRenderer(TextProgress):
    """Progress, then the report."""

    def __init__(self, way_on: str = WAY_ON, way_further: str = WAY_FURTHER, *, is_answer_alone: bool = False) -> None:
        """
        Args:
            way_on: the last line, into which the session's id is put.
            way_further: the same where all is done.
            is_answer_alone: the model's word alone goes to standard output; the rest of the report is progress, too.
        """
        super().__init__()
        self._way_on = way_on
        self._way_further = way_further
        self._is_answer_alone = is_answer_alone

    def end(self, report: RunReport, exit_code: int) -> None:
        """The report."""
        del exit_code
        self._line("")
        is_said = bool(report.summary) and not self._is_on_screen(report.summary)
        if is_said:
            click.echo(for_terminal(report.summary.strip()))
        way = self._way_further if report.status is Status.DONE else self._way_on
        click.echo(is_said * "\n" + for_terminal(told_outcome(report, way)), err=self._is_answer_alone)

    def _is_on_screen(self, summary: str) -> bool:
        """Whether it is what the person has just seen being written."""
        return self._turn_text.strip() == summary.strip() and sys.stdout.isatty() and sys.stderr.isatty()


def _called(event: events.CallFinished, call: ToolCall | None) -> str:
    subject = _subject(call) if call else ""
    return f"{event.name} {subject}".rstrip() + f"  {_outcome(event)}  {event.duration_s:.1f} s"


def _subject(call: ToolCall) -> str:
    for key in _TELLING:
        if value := call.arguments.get(key):
            return _short(" ".join(map(str, value)) if isinstance(value, list) else str(value))
    return ""


def _outcome(event: events.CallFinished) -> str:
    """In a few words."""
    if event.refused:
        reason = (
            event.for_model.removeprefix("not run: ").removeprefix("the user refused: ").removesuffix(f"; {NOBODY}")
        )
        return f"refused: {_short(reason)}"
    if event.facts.get("not_run") or event.facts.get("cause"):
        return told_tests(event.facts)
    if event.error is not None:
        return _short(event.for_model) if event.for_model.startswith("error:") else f"error: {event.error}"
    if isinstance(event.for_person, FileDiff):
        return f"+{event.for_person.added} -{event.for_person.removed}"
    if "exit_code" in event.facts and not event.for_person:
        return f"exit {event.facts['exit_code']}"
    return _short(event.for_person) if event.for_person and event.name != "finish" else "ok"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_SHOWN_CHARS else f"{line[: _MAX_SHOWN_CHARS - 1]}…"


def told_outcome(report: RunReport, way_on: str = WAY_ON) -> str:
    """What changed, the tests, what it cost, how it ended, how to go on."""
    return "\n".join([*_outcome_lines(report), way_on.format(report.session_id)])


def _outcome_lines(report: RunReport) -> Iterator[str]:
    if report.diff:
        yield from ("changed:", *_stat_lines(report.diff), "", report.diff.rstrip("\n"), "")
    else:
        yield from ("nothing was changed", "")
    if report.tests_before:
        yield f"tests before  {told_tests(report.tests_before)}"
    if report.tests_after:
        yield f"tests after   {told_tests(report.tests_after)}"
    prompt_new = report.new_tokens - report.generated_tokens
    yield (
        f"cost          {counted(report.turns, 'turn')}, {report.generated_tokens:,} tokens written, "
        f"{prompt_new:,} read anew, {report.reused_tokens:,} reused, {report.seconds:.1f} s"
    )
    if report.candidates:
        won = f"candidate {report.winner} of" if report.winner else "none of"
        told = f"{won} {len(report.candidates)} passes, {report.test_runs} test runs"
        yield f"candidates    {told}"
    yield f"ended         {report.status}: {report.reason}"


def _told_candidate(report: CandidateReport) -> str:
    """What it changed, and what came of it."""
    change = f"{_short(report.change)}  " if report.change else ""
    return f"{change}{'passes' if report.status is Status.DONE else _short(report.reason)}  {report.seconds:.1f} s"


def told_shortening(tokens_before: int, tokens_after: int) -> str:
    """What became of a conversation that goes on from a summary."""
    return f"the conversation was shortened from {tokens_before:,} to {tokens_after:,} tokens"


def told_tests(facts: Mapping[str, JsonValue]) -> str:
    """A test run in a few words, those of the tests themselves among them, with nothing that steers a terminal."""
    cause = f": {one_line(str(facts['cause']), _MAX_CAUSE_CHARS)}" if facts.get("cause") else ""
    if facts.get("not_run"):
        return f"none were run: {facts['not_run']}"
    if facts.get("timed_out"):
        return "ran out of time"
    if "passed" not in facts:
        return f"the command ended with exit code {facts.get('exit_code')}{cause}"
    words = ("failed", "error" if facts.get("errors") == 1 else "errors", "passed", "skipped")
    keys = zip(("failed", "errors", "passed", "skipped"), words, strict=True)
    counts = [f"{facts[key]} {word}" for key, word in keys if facts.get(key)]
    instead = f" ({facts['instead']})" if facts.get("instead") else ""
    return f"{', '.join(counts) or 'none were run'}{instead}{cause}"


def is_bad(facts: Mapping[str, JsonValue]) -> bool:
    """Whether a test run failed, or was none."""
    return any(facts.get(key) for key in ("not_run", "timed_out", "failed", "errors", "exit_code"))


@dataclass(slots=True)
class FileStat:
    """How much of one file a patch changes."""

    path: str
    added: int = 0
    """Lines."""
    removed: int = 0
    is_binary: bool = False

    def __str__(self) -> str:
        return f"  {one_line(self.path, _MAX_PATH_CHARS)}  " + (
            "binary" if self.is_binary else f"+{self.added} -{self.removed}"
        )


def diff_stat(diff: str) -> list[FileStat]:
    """Per file, in the patch's order. Hunks are read by their counts: no line of a file is taken for a header."""
    stats: list[FileStat] = []
    old_left = new_left = 0
    for line in diff.split("\n"):
        if old_left > 0 or new_left > 0:
            kind = line[:1]
            old_left -= kind in ("-", " ", "")
            new_left -= kind in ("+", " ", "")
            stats[-1].added += kind == "+"
            stats[-1].removed += kind == "-"
        elif line.startswith("diff --git "):
            # Both sides name the same file: `a/NAME b/NAME`, or both in quotes where git had to.
            head = line.removeprefix("diff --git ")
            stats.append(FileStat(_unquoted(head[: len(head) // 2]).removeprefix("a/")))
        elif line.startswith("GIT binary patch") and stats:
            stats[-1].is_binary = True
        elif (hunk := _HUNK.match(line)) and stats:
            old_left, new_left = (1 if count is None else int(count) for count in hunk.groups())
    return stats


def _unquoted(name: str) -> str:
    """A name as it is: one of other than plain signs git writes as a string of C, which bytes of Python look like."""
    return ast.literal_eval(f"b{name}").decode("utf-8", "replace") if name.startswith('"') else name


def _stat_lines(diff: str) -> list[str]:
    return [str(stat) for stat in diff_stat(diff)]
