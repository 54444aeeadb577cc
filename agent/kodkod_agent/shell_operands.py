"""Which words of a command may be paths, and which part of them: values of options are, search patterns are not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from kodkod_agent.shell_guards import may_be
from kodkod_agent.shell_script import SimpleCommand, Word, names

_NO_PATHS = names("echo : true false seq sleep exit expr printf tr test [")
"""None of their words is one, or they only look whether it is there."""
_SEARCHES: Mapping[str, str] = {
    "grep": "ABCDdefm",
    "egrep": "ABCDdefm",
    "fgrep": "ABCDdefm",
    "rg": "ABCEdefgjmMrtT",
    "sed": "efl",
    "jq": "",
}
"""Their first operand is a pattern, unless an option brings one; with the letters of options that take a value."""


def path_words(command: SimpleCommand, *, thorough: bool) -> list[Word]:
    """The words of a command that may be paths, as paths; its name is none. Unknown words are not among them.

    Args:
        command: wrappers off.
        thorough: of short options written together each may hold a path; else the first alone, as is the use.
    """
    words = list(command.words[1:])
    if command.name in _NO_PATHS:
        return []
    patterns = _patterns([word.text or "" for word in words], _SEARCHES.get(command.name or ""))
    return [path for at, word in enumerate(words) if at not in patterns for path in _paths(word, thorough)]


def _paths(word: Word, thorough: bool) -> Iterator[Word]:
    """A word itself, or what it may hold behind an option: `FILE` of `--file=FILE` and `-fFILE`, and of `-abfFILE`."""
    text = word.text or ""
    if text.startswith("--"):
        held = [text.partition("=")[2]]
    elif text.startswith("-"):
        letters = re.match(r"-[A-Za-z0-9]*", text) if thorough else None
        held = [text[at:] for at in range(2, (letters.end() if letters else 2) + 1)]
    else:
        held = [text]
    for path in held:
        if path:
            yield Word(path, word.source, word.is_pattern)


def _patterns(texts: Sequence[str], valued: str | None) -> set[int]:
    """Where the search patterns stand."""
    if valued is None:
        return set()
    given: set[int] = set()
    brought = False
    for at, text in enumerate(texts):
        letter, value = _first_valued(text, valued)
        if letter == "e":
            given.add(at if value else at + 1)
        brought = brought or letter in ("e", "f") or may_be(text, "--regexp") or may_be(text, "--file")
    operands = [at for at, text in enumerate(texts) if not text.startswith("-")]
    return given if brought else set(operands[:1])


def _first_valued(text: str, valued: str) -> tuple[str, str]:
    """Of short options written together, the first that takes a value, and the value."""
    found = re.match(rf"-[^-{valued}]*([{valued}])(.*)", text, re.DOTALL) if valued else None
    return (found[1], found[2]) if found else ("", "")
