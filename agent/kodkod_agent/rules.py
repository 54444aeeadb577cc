"""Permission rules as people write them: `shell(git diff *)`, `edit(src/**)`, `shell`.

For `shell` the pattern is matched with the whole of one command: `*` stands for any text, and a pattern that ends with
` *` matches the command without more words too. For other tools it is a gitignore pattern for the path, relative to
the project. Without a pattern a rule speaks of every call of the tool.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Self

from pathspec import GitIgnoreSpec
from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

_FORM = re.compile(r"(?P<tool>[A-Za-z_][\w-]*)(?:\((?P<pattern>.+)\))?", re.DOTALL)


class Rule(BaseModel):
    """One rule. In files it is its own text; read it with `Rule.read`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: str
    pattern: str | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """A rule from `tool` or `tool(pattern)`.

        Raises:
            ValueError: neither form.
        """
        return cls.model_validate(text)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, data: Any) -> Any:
        if not isinstance(data, str):
            return data
        found = _FORM.fullmatch(data.strip())
        if found is None:
            raise ValueError(f"{data[:80]!r} is no rule; write tool or tool(pattern), as in shell(git diff *)")
        return found.groupdict()

    @model_validator(mode="after")
    def _can_be_matched(self) -> Self:
        """A pattern that is none would forbid nothing, or end the run that asks for it."""
        if self.tool != "shell" and self.pattern is not None:
            try:
                says = _path_pattern(self.pattern).patterns[0].include
            except (ValueError, re.error):
                says = None
            if not says:
                raise ValueError(f"{self.pattern[:80]!r} is no pattern for paths; write one as in edit(src/**)")
        return self

    @model_serializer
    def _to_text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return self.tool if self.pattern is None else f"{self.tool}({self.pattern})"

    def matches_command(self, command: str) -> bool:
        """Whether a shell rule speaks of this command."""
        if self.pattern is None or _matches(self.pattern, command):
            return True
        return self.pattern.endswith(" *") and _matches(self.pattern.removesuffix(" *"), command)

    def may_match_command(self, start: str) -> bool:
        """Whether a shell rule may speak of a command of which only the start is known."""
        known = "" if self.pattern is None else self.pattern.removesuffix(" *").partition("*")[0]
        return start.startswith(known) or known.startswith(start)

    def matches_path(self, path: str) -> bool:
        """Whether a rule speaks of this path (relative to the project, `.` for all of it)."""
        return self.pattern is None or _path_pattern(self.pattern).match_file(path)


def _matches(pattern: str, text: str) -> bool:
    """`*` stands for any text. Part by part: a regular expression of many may take for ever."""
    first, *others = pattern.split("*")
    if not others or not text.startswith(first):
        return text == first
    at, last = len(first), others.pop()
    for part in others:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(text) - at >= len(last) and text.endswith(last)


@cache
def _path_pattern(pattern: str) -> GitIgnoreSpec:
    return GitIgnoreSpec.from_lines([pattern])


class Rules(BaseModel):
    """What is allowed, asked and denied; deny wins over ask, ask over allow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    allow: tuple[Rule, ...] = ()
    """Calls that go ahead unasked, as `shell(pytest *)` or `edit(src/**)`."""
    ask: tuple[Rule, ...] = ()
    """Calls that are asked about whatever the mode."""
    deny: tuple[Rule, ...] = ()
    """Calls that are never done."""

    def with_allowed(self, *rules: Rule) -> Self:
        """These and more allowed ones: what `always` saves."""
        new = tuple(rule for rule in rules if rule not in self.allow)
        return self.model_copy(update={"allow": self.allow + new})


def merge_rules(user: Rules, project: Rules, trusted: bool) -> Rules:
    """The user's rules and a project's. A project that is not trusted may narrow what is allowed, never widen it."""
    return Rules(
        allow=user.allow + project.allow if trusted else user.allow,
        ask=user.ask + project.ask,
        deny=user.deny + project.deny,
    )
