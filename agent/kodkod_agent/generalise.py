"""What `always` would save for a call: the rule a person would write for more like it, and never a wider one.

A program that does one kind of thing is allowed with any words (`pytest *`), one with subcommands by its subcommand
(`git commit *`, `npm run test *`). What does whatever its words say (interpreters, shells, programs that run programs,
programs that put files anywhere) is allowed in these very words alone, and not at all where the words do not tell
what it would do: a shell that reads its script from a pipe, a word that is only known when it runs. A tool of an MCP
server is allowed as it was defined then: a definition that changes is asked about again.
"""

from __future__ import annotations

import re

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from kodkod_agent.deeds import Deed
from kodkod_agent.rules import Rule
from kodkod_agent.shell_reach import Reach
from kodkod_agent.shell_script import names

_SUBCOMMANDED = names("git npm pnpm yarn cargo go uv pip make dotnet poetry gradle mvn bundle just task bazel")
_RUNNERS = frozenset(
    {("npm", "run"), ("pnpm", "run"), ("yarn", "run"), ("uv", "run"), ("poetry", "run"), ("bundle", "exec")}
)
"""Subcommands that run what the next word names."""
_INTERPRETERS = names(
    "sh bash zsh dash ksh fish busybox toybox python pypy node deno bun perl ruby php lua julia pwsh tclsh Rscript"
)
"""They run what a file, a word or standard input says."""
_NEVER_GENERAL = _INTERPRETERS | names(
    "rm rmdir mv cp ln dd tee install touch mkdir truncate shred chmod chown chgrp "
    "sudo doas su eval xargs exec env nohup watch parallel expect script tmux screen strace gdb unshare nsenter "
    "find awk gawk mawk sed tar zip unzip rsync vi vim nano ed ex emacs less more man "
    "curl wget ssh scp nc ncat socat docker podman kubectl npx pipx uvx crontab at kill pkill killall"
)
"""What their words say decides everything: `always` saves the very command, not the program."""
_MODULES = names("pytest unittest mypy ruff black flake8 pylint isort pyright")
"""Python modules that are programs of one kind: `python -m pytest *`."""
_NAMES_PROGRAMS = re.compile(
    r"(?:LD_|DYLD_|GIT_|BASH_|PYTHON|PERL|RUBY|NODE_).*|(?:ENV|IFS|SHELLOPTS|.*(?:PATH|OPTIONS|OPTS|COMMAND|PAGER|EDITOR|SHELL))="
)
"""Variables that make other programs run something: setting them is asked each time."""
_ASSIGNMENT = re.compile(r"\w+=")
_PLAIN_NAME = re.compile(r"[\w./+][\w./+:-]*")
_VERSION = re.compile(r"(?<=[A-Za-z])[\d.]+")
_LATE = re.compile(r"[$`*]|[<>]\(|\{\}|\(its input\)")
"""Signs of what is only known when the command runs, and of a rule's own `*`."""
_MAX_RULE_CHARS = 200


def suggest_rules(deed: Deed) -> tuple[Rule, ...]:
    """The rules that would allow this and its like; empty when that is not to be had by a rule."""
    tool = deed.tools[0]
    if deed.is_foreign:
        return (Rule(tool=tool, pattern=deed.subject),)
    if deed.finding.reach >= Reach.OUTSIDE:
        return ()
    if tool == "shell":
        pattern = _command_pattern(deed.subject)
        return (Rule(tool=tool, pattern=pattern),) if pattern else ()
    if tool == "git":
        return (Rule(tool=tool, pattern=deed.subject),)
    if deed.subject == ".":
        return (Rule(tool=tool),)
    # A rule is a line in a file of settings.
    return (Rule(tool=tool, pattern=_path_pattern(deed.subject)),) if deed.subject.isprintable() else ()


def _path_pattern(path: str) -> str:
    """Its folder and all below, or itself at the top; signs of a pattern in its name stand for themselves."""
    folder = path.rpartition("/")[0]
    if folder:
        return f"{GitIgnoreSpecPattern.escape(folder)}/**"
    name = GitIgnoreSpecPattern.escape(path)
    stripped = name.rstrip(" ")
    return "/" + stripped + "\\ " * (len(name) - len(stripped))


def _command_pattern(command: str) -> str | None:
    if _ASSIGNMENT.fullmatch(command):
        return None if _NAMES_PROGRAMS.fullmatch(command) else command
    num_words = _words_kept(command.split(" "))
    if num_words:
        return f"{' '.join(command.split(' ')[:num_words])} *"
    return None if _LATE.search(command) or len(command) > _MAX_RULE_CHARS or _reads_script(command) else command


def _words_kept(words: list[str]) -> int:
    """How many words at the beginning say what kind of thing is done; 0 when only all of them do."""
    name = _name(words[0])
    if not _PLAIN_NAME.fullmatch(words[0]):
        return 0
    if name == "python" and words[1:2] == ["-m"] and words[2:3] and words[2] in _MODULES:
        return 3
    if name in _NEVER_GENERAL:
        return 0
    if name not in _SUBCOMMANDED or len(words) == 1:
        return 1
    if not _PLAIN_NAME.fullmatch(words[1]):
        return 0
    if (name, words[1]) not in _RUNNERS:
        return 2
    run = words[2:3]
    return 3 if run and _PLAIN_NAME.fullmatch(run[0]) and _name(run[0]) not in _NEVER_GENERAL else 0


def _name(word: str) -> str:
    """A program without its folder and version: `python` of `/usr/bin/python3.11`."""
    return _VERSION.sub("", word.rpartition("/")[2]) or word


def _reads_script(command: str) -> bool:
    """An interpreter that takes its program from standard input."""
    first, *rest = command.split(" ")
    if _name(first) not in _INTERPRETERS:
        return False
    return "-" in rest or "-s" in rest or all(word.startswith("-") for word in rest)
