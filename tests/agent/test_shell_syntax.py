from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.shell_commands import ALWAYS_ASKED, HARMLESS, STAYS_IN
from kodkod_agent.policy import PermissionMode, Verdict, judge
from kodkod_agent.rules import Rules
from kodkod_agent.shell_reach import RESERVED
from kodkod_agent.shell_script import SimpleCommand
from kodkod_agent.shell_syntax import parse
from kodkod_agent.shell_wrappers import take_apart
from kodkod_engine.messages import ToolCall

PIECES = [
    "ls", "echo", "cat", "touch m", "> m", ">m", "m", "a", "x=1", "$x", "${x}", "$(", ")", "`", "(", "{", "}", ";",
    ";;", "&", "&&", "|", "||", "\n", "'", '"', "\\", "\\\n", "#", "<<E", "<<'E'", "<<-E", "\nE\n", "E", "<", "<(",
    ">(", "<<<", "2>&1", ">&", "!", "if", "then", "else", "fi", "for i in", "while", "do", "done", "case a in", "a)",
    "esac", "time", "eval", "exec", "env", "bash -c", "xargs", "command", "$((", "))", "1", "[[", "]]", "[", "]", "*",
    "~", "=", "$'", '$"', "\t", "function f", "f()", "-", "echo touch m", "coproc", "{f}>", "\\a", "'b'", '"c"', "2>",
    "ls && cat <<E m\nE\n", ">&-",
]  # fmt: skip
"""Out of these, and glued or blank between them, commands are made; only `touch` and `>` change a folder."""


RECORDER = """#!/bin/sh
printf '%s\\0' "${0##*/}" "$@" >> "$RECORD"
printf '\\n' >> "$RECORD"
"""


def words(command: SimpleCommand) -> list[str | None]:
    return [word.text for word in command.words]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ls -l", [["ls", "-l"]]),
        ("a 'b c' \"d e\" f\\ g h''i", [["a", "b c", "d e", "f g", "hi"]]),
        ('a "\\$b \\n \\" \\\\"', [["a", '$b \\n " \\']]),
        ("a; b && c || d | e & f\ng", [["a"], ["b"], ["c"], ["d"], ["e"], ["f"], ["g"]]),
        ("a $(b c) `d`", [["b", "c"], ["d"], ["a", None, None]]),
        ("a <(b) >(c)", [["b"], ["c"], ["a", None, None]]),
        ("a > f b", [["a", "b"]]),
        ("> f a b", [["a", "b"]]),
        ("a <<E b\nx\nE\nc", [["a", "b"], ["c"]]),
        ("a <<'E' | b\nx\nE", [["b"], ["a"]]),
        ("a {b,c} ~/d *", [["a", None, None, "*"]]),
        ("for i in a b; do c $i; done", [["c", None], []]),
        ("if a; then b; elif c; then d; else e; fi", [["a"], ["b"], ["c"], ["d"], ["e"]]),
        ("case $x in a|b) c;; *) d;; esac", [["c"], ["d"]]),
        ("[ -f a ] && b", [["[", "-f", "a", "]"], ["b"]]),
        ("(a; { b; })", [["a"], ["b"]]),
        ("", []),
        ("# nothing", []),
    ],
)
def test_a_script_is_taken_apart(text: str, expected: list[list[str | None]]) -> None:
    script = parse(text)
    assert script.doubts == ()
    assert [words(command) for command in script.commands] == expected


def test_assignments_and_redirections_are_told_from_words() -> None:
    (command,) = parse("A=1 b=$c run x=y >> out 2>&1 < in &> all 3>&-").commands
    assert words(command) == ["run", "x=y"]
    assert command.assigned == ("A", "b")
    told = [(redirection.operator, redirection.target.text, redirection.writes) for redirection in command.redirections]
    assert told == [(">>", "out", True), (">&", "1", False), ("<", "in", False), ("&>", "all", True)]


def test_patterns_are_marked() -> None:
    (command,) = parse("a *.py '*' \\* b[1] \"?\" c?").commands
    assert [word.is_pattern for word in command.words] == [False, True, False, False, True, False, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("env -u A B=1 nice -n 5 timeout -k 1 9 run x", [["run", "x"]]),
        ("a | xargs -0 -n 1 run x", [["a"], ["run", "x", None]]),
        ("a | xargs -I{} run {} x{} y", [["a"], ["run", None, None, "y"]]),
        ("find a -name b -exec run {} c ';'", [["find", "a", "-name", "b"], ["run", None, "c"]]),
        ("find a -exec run {} ';' -exec stop {} +", [["find", "a"], ["run", None], ["stop", None]]),
        ("bash -c 'a; sh -c \"b c\"'", [["a"], ["b", "c"]]),
        ("eval 'a;' b", [["a"], ["b"]]),
        ("eval -- a b", [["a", "b"]]),
        ("env x+=1 a.b=c run", [["run"]]),
        ("sudo -u me run", [["run"]]),
        ("exec -a x run y", [["run", "y"]]),
        ("bash build.sh", [["bash", "build.sh"]]),
        ("command -v a", [["command", "-v", "a"]]),
    ],
)  # fmt: skip
def test_wrappers_come_off(text: str, expected: list[list[str | None]]) -> None:
    found = take_apart(text)
    assert found.doubts == ()
    assert [words(part.command) for part in found.parts] == expected


def test_wrappers_stay_known() -> None:
    (part,) = take_apart("sudo env A=1 timeout 5 run").parts
    assert [wrapper.name for wrapper in part.wrappers] == ["sudo", "env", "timeout"]
    assert part.command.assigned == ("A",)


@given(st.text(max_size=80))
@settings(max_examples=300, deadline=None)
def test_no_text_is_too_odd(text: str) -> None:
    script = parse(text)
    assert all("\n" not in doubt for doubt in script.doubts)


def _bash_accepts(text: str) -> bool:
    return subprocess.run(["bash", "-n", "-c", text], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("text", [text for text in HARMLESS + STAYS_IN if text.isascii()], ids=ascii)
def test_what_is_parsed_without_doubt_is_bash(text: str) -> None:
    assert _bash_accepts(text)


@pytest.mark.parametrize("text", [text for text in ALWAYS_ASKED if "\0" not in text and len(text) < 99], ids=ascii)
def test_what_bash_refuses_is_doubted(text: str) -> None:
    assert _bash_accepts(text) or take_apart(text).doubts


def _judged(text: str, folder: Path) -> Verdict:
    call = ToolCall(id="1", name="shell", arguments={"command": text})
    decision = judge(call, mode=PermissionMode.DEFAULT, rules=Rules(), work_tree=folder, trusted=True)
    return decision.verdict


@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(["", " "])), min_size=1, max_size=9))
@settings(max_examples=500, deadline=None)
def test_what_is_allowed_changes_nothing_when_bash_runs_it(pieces: list[tuple[str, str]]) -> None:
    """The judgement held against bash itself: an allowed command leaves an empty folder empty."""
    text = "".join(piece + blank for piece, blank in pieces)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        if not text.strip() or _judged(text, folder) is not Verdict.ALLOW:
            return
        bash = ["timeout", "-k", "1", "2", "bash", "-c", text]
        environment = {"PATH": os.environ["PATH"], "HOME": name}
        subprocess.run(bash, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def recorders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs that do nothing but write down how they were called."""
    folder = tmp_path_factory.mktemp("recorders")
    for name in ("ls", "cat", "touch", "m", "a", "b"):
        (folder / name).write_text(RECORDER)
        (folder / name).chmod(0o755)
    for name in ("env", "xargs", "sh"):
        (folder / name).symlink_to(shutil.which(name) or "")
    return folder


def _is_of(argv: list[str], told: list[str | None]) -> bool:
    """Whether a program's words are those of a command; one that is not known may have become any number."""
    if not told:
        return not argv
    if told[0] is None:
        return any(_is_of(argv[at:], told[1:]) for at in range(len(argv) + 1))
    return argv[:1] == told[:1] and _is_of(argv[1:], told[1:])


@given(st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(["", " "])), min_size=1, max_size=9))
@example([("xargs", " "), ("a", "")])  # which is given no word more
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_bash_starts_was_listed(recorders: Path, pieces: list[tuple[str, str]]) -> None:
    """The reading held against bash itself: every program it starts is one of the commands, word for word."""
    text = "".join(piece + blank for piece, blank in pieces)
    found = take_apart(text)
    commands = [part.command for part in found.parts if part.command.words]
    if found.doubts or any(command.name is None or command.name in RESERVED for command in commands):
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        record = Path(name, "record")
        bash = [shutil.which("timeout") or "", "-k", "1", "2", shutil.which("bash") or "", "-c", text]
        environment = {"PATH": str(recorders), "HOME": name, "RECORD": str(record)}
        subprocess.run(bash, cwd=name, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        told = [[None if word.is_pattern else word.text for word in command.words] for command in commands]
        for line in record.read_text().split("\n")[:-1] if record.exists() else []:
            assert any(_is_of(line.split("\0")[:-1], known) for known in told), text
