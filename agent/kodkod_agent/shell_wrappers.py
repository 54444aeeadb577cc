"""Programs that run other programs (`env`, `timeout`, `xargs`, `find -exec`, `bash -c`, ...), taken off.

What is inside is judged in the wrapper's place; the wrapper stays visible to rules that deny or ask. An option that is
not known here makes the rest unsure, since it might take a word of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from kodkod_agent.shell_script import Redirection, Script, SimpleCommand, Word
from kodkod_agent.shell_syntax import parse

_MAX_DEPTH = 8
_ASSIGNMENT = re.compile(r"([^=]+)=.*", re.DOTALL)
"""To `env` every word with the sign is one, whatever stands before it."""


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """How a wrapper's own words are told from those of the command it runs."""

    flags: frozenset[str] = frozenset()
    valued: frozenset[str] = frozenset()
    """Options that take the next word, unless they hold the value themselves (`-n5`, `--adjustment=5`)."""
    operands: int = 0
    """Words before the command that are no options: a duration."""
    assigns: bool = False
    """Words of the form NAME=value may stand before the command."""
    appends: bool = False
    """It adds words that are not known here."""


def _of(
    flags: str = "", valued: str = "", operands: int = 0, *, assigns: bool = False, appends: bool = False
) -> _Wrapper:
    return _Wrapper(frozenset(flags.split()), frozenset(valued.split()), operands, assigns, appends)


_WRAPPERS: Mapping[str, _Wrapper] = {
    "env": _of("-i - --ignore-environment -0 --null", "-u --unset", assigns=True),
    "nice": _of("", "-n --adjustment"),
    "ionice": _of("-t", "-c -n"),
    "nohup": _of(),
    "setsid": _of("-f -w --fork --wait"),
    "timeout": _of("--foreground --preserve-status -v --verbose", "-k --kill-after -s --signal", 1),
    "time": _of("-p"),
    "stdbuf": _of("", "-i -o -e --input --output --error"),
    "command": _of("-p"),
    "builtin": _of(),
    "exec": _of("-c -l", "-a"),
    "sudo": _of("-n -E -H -S -i -s -b --", "-u -g -C -D -h -p -r -t -T -U"),
    "doas": _of("-n -s", "-u -C"),
    "xargs": _of(
        "-0 --null -r --no-run-if-empty -t --verbose -x --exit",
        "-n --max-args -P --max-procs -L --max-lines -d --delimiter -s --max-chars -I -E",
        appends=True,
    ),
}
_SHELLS = frozenset({"bash", "sh", "dash", "zsh", "ksh"})
_FIND_RUNS = frozenset({"-exec", "-execdir", "-ok", "-okdir"})


@dataclass(frozen=True, slots=True)
class Part:
    """A command that a script runs, wrappers off."""

    command: SimpleCommand
    wrappers: tuple[SimpleCommand, ...] = ()
    """What it was wrapped in, outermost first."""


@dataclass(frozen=True, slots=True)
class Parts:
    """All the commands of a script."""

    parts: tuple[Part, ...]
    doubts: tuple[str, ...]


def take_apart(text: str) -> Parts:
    """The commands a command line runs, those inside wrappers included."""
    return _of_script(parse(text), (), 0)


def _of_script(script: Script, wrappers: tuple[SimpleCommand, ...], depth: int) -> Parts:
    parts: list[Part] = []
    doubts = list(script.doubts)
    for command in script.commands:
        found = _unwrap(Part(command, wrappers), depth)
        parts += found.parts
        doubts += found.doubts
    return Parts(tuple(parts), tuple(dict.fromkeys(doubts)))


def _unwrap(part: Part, depth: int) -> Parts:
    name = part.command.name or ""
    if depth > _MAX_DEPTH:
        return Parts((part,), ("commands are wrapped in one another too deeply",))
    if name in _WRAPPERS and not _looks_up(part.command):
        return _unwrap_prefix(part, _WRAPPERS[name], depth)
    if name in _SHELLS:
        return _unwrap_shell(part, depth)
    if name == "eval":
        return _unwrap_eval(part, depth)
    if name == "find":
        return _unwrap_find(part, depth)
    return Parts((part,), ())


def _looks_up(command: SimpleCommand) -> bool:
    """`command -v name` runs nothing."""
    return command.name == "command" and len(command.words) > 1 and command.words[1].text in ("-v", "-V")


def _unwrap_prefix(part: Part, wrapper: _Wrapper, depth: int) -> Parts:
    words = part.command.words
    at, assigned = _skip_own_words(words, wrapper)
    inner = words[at:]
    # Behind `time`, a word of bash's own, NAME=value sets a variable; to a program of that name it is one to run.
    if at is None or (inner and _ASSIGNMENT.fullmatch(inner[0].text or "")):
        return Parts((part,), (f"it is not sure what {part.command.name} runs",))
    if not inner:
        return Parts((part,), ())
    if wrapper.appends:
        inner = _with_unknown(inner, words[1:at])
    outside = replace(part.command, redirections=())
    command = SimpleCommand(inner, part.command.assigned + assigned, part.command.redirections)
    return _unwrap(Part(command, (*part.wrappers, outside)), depth + 1)


def _skip_own_words(words: Sequence[Word], wrapper: _Wrapper) -> tuple[int | None, tuple[str, ...]]:
    """Where the command begins, and the variables set before it; None when that is not sure."""
    at, operands, assigned = 1, wrapper.operands, []
    while at < len(words):
        text = words[at].text
        if text is None or words[at].is_pattern:
            return None, ()
        if text.startswith("-") and operands == wrapper.operands:
            step = _option_length(text, wrapper)
            if step is None:
                return None, ()
            at += step
        elif wrapper.assigns and (found := _ASSIGNMENT.fullmatch(text)):
            assigned.append(found[1])
            at += 1
        elif operands:
            operands -= 1
            at += 1
        else:
            break
    return at, tuple(assigned)


def _option_length(text: str, wrapper: _Wrapper) -> int | None:
    """Words an option takes; None for one that is not known."""
    if text in wrapper.flags:
        return 1
    if text in wrapper.valued:
        return 2
    holds_value = text.split("=")[0] in wrapper.valued if text.startswith("--") else text[:2] in wrapper.valued
    return 1 if holds_value or re.fullmatch(r"-\d+", text) else None


def _with_unknown(inner: tuple[Word, ...], own: Sequence[Word]) -> tuple[Word, ...]:
    """The command xargs runs: with words from its input at the end, or in place of a mark."""
    texts = [word.text or "" for word in own]
    marks = [after for option, after in pairwise(texts) if option == "-I"]
    marks += [text[2:] for text in texts if text.startswith("-I") and len(text) > 2]
    if not marks:
        return (*inner, Word(None, "(its input)"))
    return tuple(Word(None, word.source) if marks[0] in word.source else word for word in inner)


def _unwrap_shell(part: Part, depth: int) -> Parts:
    """`bash -c script`: the script. A shell without `-c` is a program like any other."""
    texts = [word.text for word in part.command.words]
    flag = next((n for n, text in enumerate(texts[1:], 1) if text in ("-c", "-lc", "-ec", "-xc", "-euc", "-exc")), None)
    before = texts[1:flag]
    if flag is None or not all(text and text.startswith("-") for text in before):
        return Parts((part,), ())
    if "-o" in before or flag + 1 >= len(texts) or texts[flag + 1] is None:
        return Parts((part,), (f"the script that {part.command.name} runs is not known",))
    return _inner_script(part, texts[flag + 1] or "", depth)


def _unwrap_eval(part: Part, depth: int) -> Parts:
    texts = [word.text for word in part.command.words[1:]]
    texts = texts[1:] if texts[:1] == ["--"] else texts
    if any(text is None for text in texts) or any(word.is_pattern for word in part.command.words):
        return Parts((part,), ("what eval runs is not known",))
    return _inner_script(part, " ".join(text or "" for text in texts), depth)


def _inner_script(part: Part, text: str, depth: int) -> Parts:
    outside = replace(part.command, redirections=())
    found = _of_script(parse(text), (*part.wrappers, outside), depth + 1)
    # Redirections and variables around the script are judged as a command of their own.
    around = SimpleCommand((), part.command.assigned, part.command.redirections)
    kept = (Part(around, part.wrappers),) if around.assigned or around.redirections or not found.parts else ()
    return Parts((*found.parts, *kept), found.doubts)


def _unwrap_find(part: Part, depth: int) -> Parts:
    """Each command find runs, and find itself without them."""
    parts: list[Part] = []
    doubts: list[str] = []
    kept: list[Word] = []
    words = list(part.command.words)
    while words:
        word = words.pop(0)
        if word.text not in _FIND_RUNS:
            kept.append(word)
            continue
        end = next((n for n, inner in enumerate(words) if inner.text in (";", "+")), len(words))
        if end in (0, len(words)):
            doubts.append("it is not sure what find runs")
        found = _unwrap_found(part, tuple(words[:end]), depth)
        parts += found.parts
        doubts += found.doubts
        words = words[end + 1 :]
    itself = replace(part.command, words=tuple(kept))
    return Parts((Part(itself, part.wrappers), *parts), tuple(doubts))


def _unwrap_found(part: Part, inner: tuple[Word, ...], depth: int) -> Parts:
    filled = tuple(Word(None, word.source) if "{}" in (word.text or "") else word for word in inner)
    no_redirections: tuple[Redirection, ...] = ()
    command = SimpleCommand(filled, part.command.assigned, no_redirections)
    return _unwrap(Part(command, (*part.wrappers, replace(part.command, redirections=()))), depth + 1)
