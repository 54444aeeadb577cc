"""What the reader of shell commands checks before it trusts its grammar."""

from __future__ import annotations

import pytest
import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from kodkod_agent import shell_checks


def nodes(text: str, kind: str) -> list[Node]:
    """All nodes of a kind; the root for `program`."""
    waiting = [Parser(Language(tree_sitter_bash.language())).parse(text.encode()).root_node]
    found = []
    while waiting:
        node = waiting.pop()
        found += [node] if node.type == kind else []
        waiting += node.children
    return found


def heredoc_is_sure(text: str) -> bool:
    (node,) = nodes(text, "heredoc_redirect")
    return shell_checks.heredoc_is_sure(text.encode(), node)


@pytest.mark.parametrize(
    "text",
    [
        "cat <<EOF\nline\nEOF\n",
        "cat <<'EOF'\n$(ls) `ls`\nEOF\n",
        "cat <<-EOF\n\tline\n\tEOF\n",
        "cat <<EOF\nä $name\nEOF\nls\n",
    ],
)
def test_a_text_that_ends_at_its_delimiter_is_sure(text: str) -> None:
    assert heredoc_is_sure(text)


@pytest.mark.parametrize(
    "text",
    [
        "cat <<EOF\n$(ls)\nEOF\n",
        "cat <<EOF\n`ls`\nEOF\n",
        "cat <<EOF\na\\\nEOF\nb\nEOF\n",
        "cat <<E$X\nline\nE$X\n",
    ],
)
def test_a_text_with_a_command_in_it_or_an_odd_end_is_not(text: str) -> None:
    assert not heredoc_is_sure(text)


def test_lines_joined_inside_a_word() -> None:
    assert shell_checks.joins_lines(b"ech\\\no hi")
    assert shell_checks.joins_lines(b"echo \\\n # hi")
    assert not shell_checks.joins_lines(b"echo \\\nhi")


@pytest.mark.parametrize(
    ("text", "kind", "does"),
    [
        (">\nx", "file_redirect", True),
        ("> \\\nx", "file_redirect", False),
        ("echo a \\\n b\n", "command", False),
        ("echo a b\nls\n", "command", False),
    ],
)
def test_a_line_that_ends_between_two_parts(text: str, kind: str, does: bool) -> None:
    found = nodes(text, kind)
    assert found
    assert any(shell_checks.ends_inside(text.encode(), node) for node in found) is does


@pytest.mark.parametrize(("text", "is_odd"), [("$((1))", True), ("`a\\`b`", True), ("$(ls)", False), ("`ls`", False)])
def test_odd_substitutions(text: str, is_odd: bool) -> None:
    assert shell_checks.is_odd_substitution(text) is is_odd


def test_everything_is_covered_or_there_is_a_doubt() -> None:
    def doubts(text: str, told: str) -> list[str]:
        return shell_checks.uncovered(told.encode(), nodes(text, "program")[0])

    assert doubts("echo a | cat\n", "echo a | cat\n") == []
    assert doubts("echo a   b", "echo axx b") == ["a part of it cannot be parsed"]
    assert doubts("echo a  ", "echo a x") == ["its end cannot be parsed"]
