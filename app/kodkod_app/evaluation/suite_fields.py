"""What texts in a suite may be: looked at when it is read, so that no trial is spent on one that cannot be."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from string import Formatter
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_NAME_BYTES = 100
"""Names of suites and tasks stand in names of files."""


def _compiled(text: str) -> str:
    try:
        re.compile(text)
    except re.error as fault:
        raise ValueError(f"{text!r} is no regular expression ({fault})") from fault
    return text


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError(f"{name!r} does not name a file inside the work tree")
    return name


def _a_name(text: str) -> str:
    if "/" in text or not text.isprintable():
        raise ValueError(f"{text!r} stands in names of files, so it can have no / and no control characters")
    if len(text.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{text!r} stands in names of files, so it can have no more than {MAX_NAME_BYTES} bytes")
    return text


Expression = Annotated[str, AfterValidator(_compiled)]
"""A regular expression."""
FileName = Annotated[str, AfterValidator(_inside)]
"""A path inside a work tree."""
SuiteName = Annotated[str, Field(min_length=1), AfterValidator(_a_name)]


def names_in(template: str) -> Iterator[str]:
    """The names that `{names}` of a template stand for.

    Raises:
        ValueError: its braces do not match.
    """
    yield from (name for _, name, _, _ in Formatter().parse(template) if name is not None)
