"""One line for another: told as parsing the whole file would tell it, or more strictly."""

from __future__ import annotations

import ast
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_agent.line_syntax import LineSyntax

SOURCE = '''\
import re

TABLE = [
    1,
    2,
]


class A:
    @property
    def b(self):
        if self.c:
            return re.compile("\\\\d")
        else:
            return """
text
"""

    async def d(self, x):
        def inner(y):
            return (x +
                    y)
        return inner(x)
'''
LINES = SOURCE.split("\n")


def parses(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape that means nothing is bad style, not bad syntax
            ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


PIECES = st.sampled_from(
    [" ", "x", ":", "(", ")", '"', "\n", "return", "else:", "=", "\\", "#", "        ", "def f():", "'''"]
)


@settings(max_examples=200, deadline=None)
@given(line=st.integers(1, len(LINES) - 1), pieces=st.lists(PIECES, max_size=7), keep=st.integers(0, 40))
def test_what_is_accepted_parses_in_the_file(line, pieces, keep):
    old = LINES[line - 1]
    new = old[:keep] + "".join(pieces) + old[keep:]
    if LineSyntax(SOURCE, line).accepts(new):
        assert parses("\n".join([*LINES[: line - 1], new, *LINES[line:]]))


@pytest.mark.parametrize(
    ("line", "new", "is_accepted"),
    [
        (12, "        if not self.c:", True),
        (12, "        if not self.c", False),
        (12, "        x = 1\n        if self.c:", True),
        (12, "        x = 1\n    if self.c:", False),
        (12, "            if self.c:", False),
        (21, "            return (x -", True),
        (21, "            return x -", False),
        (4, "    1, 3,", True),
        (23, "        return inner(x)\n    else:\n        pass", False),
        (23, "        return inner(x)\ny = 1", False),
    ],
)
def test_some_lines(line, new, is_accepted):
    assert LineSyntax(SOURCE, line).accepts(new) is is_accepted


def test_a_file_that_does_not_parse_is_not_held_against_a_line():
    assert LineSyntax("def f(:\n    return 1\n", 2).accepts("    return )")
