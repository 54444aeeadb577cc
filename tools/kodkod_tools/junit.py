"""A test report in JUnit's XML, as pytest writes it, read without trusting it.

The tests are a stranger's and so is the report: it is read as a stream, document types (and with them entities) are
refused, and its size is the caller's to bound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from xml.parsers import expat

_FRAME = re.compile(
    r"^(?P<path>[^\s:][^:\n]*):(?P<line>\d+): (?:in (?P<function>.+)|(?P<error>\w[\w.]*))$", re.MULTILINE
)
COLLECTION_FAILURE = "collection failure"
"""pytest's message for a module that could not be collected, whatever the cause."""
_MAX_TEXT_CHARS = 200_000
"""Kept of one failure's text."""


class BadReport(ValueError):
    """No report, or one that no test runner writes."""


class Outcome(StrEnum):
    """How a test ended."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    """Set-up, tear-down or collection failed."""
    SKIPPED = "skipped"


@dataclass(slots=True)
class Case:
    """One test."""

    name: str
    module: str
    """pytest's class name: dotted module and classes; empty for a module that could not be collected."""
    file: str
    outcome: Outcome = Outcome.PASSED
    message: str = ""
    text: str = ""
    """The traceback."""

    @property
    def node_id(self) -> str:
        """As pytest takes it on its command line."""
        if not self.file:
            return self.name if not self.module else f"{self.module}.{self.name}"
        dotted = self.file.removesuffix(".py").replace("/", ".")
        classes = self.module.removeprefix(dotted).strip(".").split(".") if self.module.startswith(dotted) else []
        return "::".join([self.file, *filter(None, classes), self.name])


@dataclass(slots=True)
class _Reading:
    cases: list[Case] = field(default_factory=list)
    inside: bool = False
    seen: bool = False


def read(data: bytes) -> list[Case]:
    """The tests of a report.

    Raises:
        BadReport: not XML, cut off, with a document type, or without any suite.
    """
    reading = _Reading()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = lambda name, attributes: _start(reading, name, attributes)
    parser.EndElementHandler = lambda name: _end(reading, name)
    parser.CharacterDataHandler = lambda text: _text(reading, text)
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(data, True)
    except BadReport:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:  # the last two of an encoding it does not read
        raise BadReport(f"not a whole XML document: {error}") from error
    if not reading.seen:
        raise BadReport("no test suite in it")
    return _merged(reading.cases)


def _refuse(*_: object) -> None:
    raise BadReport("it declares a document type")


def _start(reading: _Reading, name: str, attributes: dict[str, str]) -> None:
    if name == "testsuite":
        reading.seen = True
    elif name == "testcase":
        reading.cases.append(
            Case(attributes.get("name", "?"), attributes.get("classname", ""), attributes.get("file", ""))
        )
    elif name in ("failure", "error", "skipped") and reading.cases:
        case = reading.cases[-1]
        case.outcome = Outcome.FAILED if name == "failure" else Outcome(name)
        case.message = attributes.get("message", "")[:_MAX_TEXT_CHARS]
        reading.inside = True


def _end(reading: _Reading, name: str) -> None:
    if name in ("failure", "error", "skipped"):
        reading.inside = False


def _text(reading: _Reading, text: str) -> None:
    if reading.inside and len(reading.cases[-1].text) < _MAX_TEXT_CHARS:
        reading.cases[-1].text += text


def _merged(cases: list[Case]) -> list[Case]:
    """One entry per test: a test whose tear-down fails after it passed or failed is written twice."""
    by_id: dict[str, Case] = {}
    for case in cases:
        known = by_id.get(case.node_id)
        if known is None or known.outcome is Outcome.PASSED:
            by_id[case.node_id] = case
    return list(by_id.values())


@dataclass(frozen=True, slots=True)
class Frame:
    """A place in a traceback."""

    path: str
    line: int
    function: str
    code: str


def innermost_frame(text: str) -> Frame | None:
    """The last frame of a short traceback that lies in the project and not in an installed package."""
    frames = [found for found in _FRAME.finditer(text) if _in_project(found["path"])]
    if not frames:
        return None
    last = frames[-1]
    rest = text[last.end() :].lstrip("\n").split("\n", 1)[0]
    code = rest.strip() if rest.startswith(" ") else ""
    return Frame(last["path"], int(last["line"]), last["function"] or "", code)


def _in_project(path: str) -> bool:
    return not path.startswith(("/", "..", "<")) and "site-packages/" not in path


def error_lines(case: Case, most: int) -> list[str]:
    """The lines that say what went wrong (pytest marks them with `E`); the message where there are none."""
    marked = [line[1:].removeprefix("   ").rstrip() for line in case.text.splitlines() if re.match(r"E(?:\s|$)", line)]
    told = case.text if case.message == COLLECTION_FAILURE else case.message or case.text
    lines = marked or [line for line in told.splitlines() if line.strip()]
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], f"[… {len(lines) - most + 1} more lines]"]
