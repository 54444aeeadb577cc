"""What of a stranger's text reaches a terminal, asked of every character there is."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from kodkod_app.render import for_terminal
from kodkod_app.tui.desk import branch_of
from kodkod_app.tui.inert import inert

EVERY = [chr(code) for code in range(sys.maxunicode + 1)]
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def obeyed(char: str) -> bool:
    """Whether a terminal does something at it but to draw it."""
    kind = unicodedata.category(char)
    return kind in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(char) in TURNING or char in "\u200e\u200f\u061c"


def test_nothing_that_a_terminal_obeys_passes() -> None:
    passed = [char for char in EVERY if obeyed(char) and char not in "\n\t"]
    assert [char for char in passed if char in for_terminal(f"a{char}b") or char in inert(f"a{char}b")] == []


@pytest.mark.parametrize("char", "\u200b\u2060\ufeff\u115f\u3164\U000e0041\U000e0101")
def test_words_cannot_be_hidden(char: str) -> None:
    assert for_terminal(f"a{char}b") == inert(f"a{char}b") == "a\N{REPLACEMENT CHARACTER}b"


def test_writing_stays_as_it_is() -> None:
    text = "naïve שלום 日本語 👩\u200d👩\u200d👧 क्\u200dष e\u0301 ﷺ"
    assert for_terminal(text) == inert(text) == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"a\xffb", "a\N{REPLACEMENT CHARACTER}b"), ("a\u202eb".encode(), "a\N{REPLACEMENT CHARACTER}b")],
)
def test_a_branch_may_have_any_name(tmp_path: Path, name: bytes, shown: str) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".git" / "HEAD").write_bytes(b"ref: refs/heads/" + name + b"\n")
    assert branch_of(tmp_path) == shown
