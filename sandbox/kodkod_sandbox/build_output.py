"""What a Docker build says of itself, and the one line of it that tells why it failed."""

from __future__ import annotations

import re

_KEPT_LINES = 200
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CAUSE = re.compile(r"(error|fatal|e)\b", re.IGNORECASE)
_PROGRESS = ("Step ", "--->", "Removing intermediate container")


class BuildOutput:
    """The last lines of a build."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, text: str) -> None:
        """It said this."""
        self._lines += _COLOUR.sub("", text).splitlines()
        del self._lines[:-_KEPT_LINES]

    def cause(self, fault: str) -> str:
        """The last line that tells of an error; else `fault`, the daemon's word, and what was said last."""
        lines = [line.strip() for line in self._lines if line.strip() and not line.strip().startswith(_PROGRESS)]
        if errors := [line for line in lines if _CAUSE.match(line)]:
            return errors[-1]
        return ": ".join([" ".join(fault.split()), *lines[-1:]])
