"""How far a command reaches, by its name and words: a table, with the options that make a harmless program do more.

What is not in the table runs code. Words that are not known are only harmless where any word would be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from kodkod_agent.shell_guards import GUARDS, TAKE_NO_PATTERN, is_own_name, may_be
from kodkod_agent.shell_script import SimpleCommand, Word, names


class Reach(IntEnum):
    """What a command may touch at most; the larger, the more."""

    READS = 0
    """It looks at the project."""
    EDITS = 1
    """It changes files of the project that it names."""
    COMMITS = 2
    """It changes the project's history: commits, branches, tags, the index."""
    RUNS = 3
    """It runs code that is not known here: tests, builds, scripts."""
    OUTSIDE = 4
    """It names something outside the project, git's own files, a network, or asks for more rights."""
    UNSURE = 5
    """What it does cannot be told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How far, and why, as the end of a sentence that begins with the command."""

    reach: Reach
    why: str


_READS = Finding(Reach.READS, "only reads")
_HARMLESS_NAMES = names("LC_ALL LANG LANGUAGE TZ NO_COLOR FORCE_COLOR CI COLUMNS LINES PYTHONDONTWRITEBYTECODE")
RESERVED = names("if then else elif fi case esac for select while until do done in function coproc ! { } [[ ]]")
"""Where the grammar takes one for a program, bash may begin a statement, and what follows is a command of its own."""
_NETWORK = names("ssh scp sftp rsync curl wget nc ncat telnet ftp")
_RIGHTS = names("sudo doas su pkexec mount umount chroot docker podman systemctl dd mkfs shutdown reboot")
_ANY_WORDS = names("echo true false : continue break")
"""Whatever their words are, they only print them, if that."""
_ANY_OPTIONS = names(
    "ls cat head tail wc pwd basename dirname realpath readlink stat which type nl cut tr comm cmp md5sum sha1sum "
    "sha256sum cksum od hexdump strings fold rev tac seq uname whoami id nproc uptime df du free "
    "cd exit sleep expr column"
)
"""No option of theirs writes or runs anything."""
_TELLS_VERSION = names(
    "python python3 node npm gcc g++ clang git pip pip3 make cmake java javac ruby perl bash uv ruff mypy"
)
"""Not those that a project's files lead elsewhere first: cargo and rustc by `rust-toolchain.toml`, go by `go.mod`,
pytest by `conftest.py`."""
_MAKES_FILES = names("mkdir touch cp mv rmdir rm")
_GIT_READS = names(
    "status diff log show blame rev-parse ls-files ls-tree cat-file describe shortlog grep merge-base rev-list "
    "name-rev count-objects for-each-ref check-ignore version whatchanged diff-tree"
)
_GIT_COMMITS = names(
    "add commit branch tag switch checkout restore reset stash merge rebase cherry-pick revert rm mv apply am notes"
)
_GIT_REFUSED = (
    "--output", "--open-files-in-pager", "--ext-diff", "--textconv", "--filters", "--contents", "--exec",
    "--unsafe-paths",
)  # fmt: skip
_GIT_REFUSED_LETTERS: Mapping[str, str] = {"grep": "O", "rebase": "x"}
_GIT_VALUED = ("-C", "-c", "--git-dir", "--work-tree", "--namespace", "--config-env", "--attr-source", "--super-prefix")
_LISTS_ONLY: Mapping[tuple[str, ...], frozenset[str]] = {
    ("branch",): names("-a --all -r --remotes -v -vv --verbose --list -l --show-current --no-color"),
    ("tag",): frozenset({"-l", "--list"}),
    ("remote",): frozenset({"-v", "--verbose"}),
    ("stash", "list"): frozenset(),
    ("reflog",): frozenset(),
    ("worktree", "list"): frozenset({"--porcelain"}),
}
"""git commands that only list when they have no other words than these."""


def find_reach(command: SimpleCommand) -> Finding:
    """How far the program reaches, paths, variables and redirections apart."""
    if not command.words:
        return _READS
    if command.name is None:
        return Finding(Reach.UNSURE, "is named by something only known when it runs")
    return _by_name(command.name, command.words[1:])


def obeyed(command: SimpleCommand) -> list[str]:
    """The variables a command sets that programs may obey, itself or others: all but those known to be harmless."""
    return [name for name in command.assigned if name not in _HARMLESS_NAMES and not is_own_name(name)]


def _by_name(name: str, words: Sequence[Word]) -> Finding:
    if name in RESERVED:
        return Finding(Reach.UNSURE, "may begin a statement that is not judged")
    if name in _NETWORK:
        return Finding(Reach.OUTSIDE, "speaks to a network")
    if name in _RIGHTS:
        return Finding(Reach.OUTSIDE, "reaches beyond the project")
    if name in _ANY_WORDS:
        return _READS
    if name in _TELLS_VERSION and [word.text for word in words] == ["--version"]:
        return _READS
    if name == "git":
        return _git(words)
    if name in _MAKES_FILES:
        return _makes_files(words)
    if name in _ANY_OPTIONS:
        return _READS if _all_known(words) else _unknown_words()
    if name in GUARDS:
        may_grow = name in TAKE_NO_PATTERN and any(word.is_pattern for word in words)
        harmless = _all_known(words) and not _hidden_options(words) and not may_grow and GUARDS[name](_texts(words))
        return _READS if harmless else Finding(Reach.RUNS, "has words that may make it do more than read")
    return Finding(Reach.RUNS, "runs code")


def _all_known(words: Sequence[Word]) -> bool:
    return all(word.text is not None for word in words)


def _unknown_words() -> Finding:
    return Finding(Reach.RUNS, "has words that are only known when it runs")


def _hidden_options(words: Sequence[Word]) -> bool:
    """A file may be named like an option, so a pattern must begin with what no option begins with."""
    return any(word.is_pattern and re.match(r"[-*?\[]", word.text or "") for word in words)


def _texts(words: Sequence[Word]) -> list[str]:
    return [word.text or "" for word in words]


def _makes_files(words: Sequence[Word]) -> Finding:
    if not _all_known(words) or _hidden_options(words):
        return _unknown_words()
    return Finding(Reach.EDITS, "changes files")


def _git(words: Sequence[Word]) -> Finding:
    texts, at = _texts(words), _after_global_options(words)
    if at is None or not _all_known(words):
        return Finding(Reach.RUNS, "has options that may make git run other programs")
    if at >= len(texts):
        return _READS
    name, rest = texts[at], texts[at + 1 :]
    letter = _GIT_REFUSED_LETTERS.get(name)
    if any(may_be(text, option) for text in rest for option in _GIT_REFUSED) or (
        letter and any(re.match(rf"-[A-Za-z0-9]*{letter}", text) for text in rest)
    ):
        return Finding(Reach.RUNS, "has an option that writes a file or runs a program")
    if name in _GIT_READS or _only_lists(name, rest):
        return _READS if not _hidden_options(words[at + 1 :]) else _unknown_words()
    if name in _GIT_COMMITS:
        return Finding(Reach.COMMITS, "changes the project's history or index")
    return Finding(Reach.OUTSIDE, "reaches beyond this repository or changes its settings")


def _after_global_options(words: Sequence[Word]) -> int | None:
    """Where git's command stands; None after an option that may name a program."""
    at = 0
    while at < len(words) and (words[at].text or "-").startswith("-"):
        if words[at].text == "-C" and at + 1 < len(words):
            at += 2
        elif words[at].text in ("--no-pager", "--literal-pathspecs", "--no-optional-locks", "--version"):
            at += 1
        else:
            return None
    return at


def _only_lists(name: str, rest: Sequence[str]) -> bool:
    for start, options in _LISTS_ONLY.items():
        if (name, *rest)[: len(start)] == start:
            return set((name, *rest)[len(start) :]) <= options
    return name == "config" and rest[:1] in (["--get"], ["--list"], ["-l"], ["--get-all"])


def without_git_options(texts: Sequence[str]) -> list[str]:
    """The words of a git command without the options before its name: `git push` of `git -C x push`."""
    rest = list(texts[1:])
    while rest and rest[0].startswith("-"):
        takes_word = rest.pop(0) in _GIT_VALUED
        if takes_word and rest:
            rest.pop(0)
    return [texts[0], *rest]
