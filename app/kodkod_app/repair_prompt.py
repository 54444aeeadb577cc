"""What the agent is asked: the words a model may have been trained on."""

from __future__ import annotations

from collections.abc import Iterable

_ISSUE = "Solve this issue in the project:\n\n{issue}"
_FAILING = "These tests fail. Mend the code, not the tests, so that they pass:\n\n{tests}"


def failing_prompt(tests: Iterable[str]) -> str:
    """To mend what failing tests show."""
    return _FAILING.format(tests="\n".join(tests))


def issue_prompt(issue: str) -> str:
    """To solve an issue."""
    return _ISSUE.format(issue=issue.strip())
