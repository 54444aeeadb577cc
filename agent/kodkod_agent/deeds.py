"""What a call would do: one deed for a tool that names a path, one for each part of a shell command."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from kodkod_agent.places import Places
from kodkod_agent.shell_operands import path_words
from kodkod_agent.shell_reach import Finding, Reach, find_reach, obeyed, without_git_options
from kodkod_agent.shell_script import Redirection, SimpleCommand, Word, names
from kodkod_agent.shell_wrappers import Part, take_apart
from kodkod_tools import git
from kodkod_tools.base import Effect, ForeignTool

_MOVES = names("cd pushd popd")
_OTHER_USERS = names("sudo doas")
_WRITERS = ("write", "edit")


@dataclass(frozen=True, slots=True)
class Deed:
    """One thing a call would do."""

    tools: tuple[str, ...]
    """Whose rules speak of it."""
    subject: str
    """A command, or a path relative to the project: what rules are matched with and a person is shown."""
    finding: Finding
    other_subjects: tuple[str, ...] = ()
    """Other names of the subject, for rules that ask or deny."""
    starts: tuple[str, ...] = ()
    """What is known of a command's names, where a word of it is known only when it runs; for the same rules."""
    in_box: bool = False
    """Done where commands run, which may be a box; else by a tool on the host."""
    is_foreign: bool = False
    """Done by another program: the subject is the fingerprint of its definition, which no person would read."""


def of_tool(name: str, effect: Effect, arguments: Any, places: Places) -> Deed:
    """What a call of a tool other than a shell command would do.

    Args:
        name: of the tool.
        effect: the most it may do.
        arguments: its arguments, checked.
        places: the project.
    """
    if name == "git":
        writes = git.writes(arguments)
        finding = Finding(Reach.COMMITS, "changes the project's history or files") if writes else _reads()
        return Deed((name,), str(arguments.action), finding)
    if name == "shell" or effect is Effect.NONE:
        return Deed((name,), name, Finding(Reach.READS, "changes nothing"))
    if effect is Effect.EXECUTES:
        return Deed((name,), ".", Finding(Reach.RUNS, "runs the project's code"), in_box=True)
    path = str(getattr(arguments, "path", "."))
    real, others = places.real(path), (places.relative(path),)
    if effect is Effect.READS:
        return Deed((name,), real, _reads(), others)
    finding = places.writing(Word(path, path)) or Finding(Reach.EDITS, "would be changed")
    return Deed((name,), real, finding, others)


def of_foreign(tool: ForeignTool) -> Deed:
    """What a call of another program's tool would do. Nothing that the program says of itself counts."""
    finding = Finding(Reach.OUTSIDE, f"is done by the MCP server {tool.server}, outside the box")
    return Deed((tool.spec.name, f"mcp__{tool.server}"), tool.fingerprint, finding, is_foreign=True)


def of_shell(text: str, places: Places, *, trusts_git: bool) -> list[Deed]:
    """What a shell command would do, part by part; at least one deed.

    Args:
        text: the command line.
        places: the project.
        trusts_git: whether git may read this repository's settings, which can name programs to run.
    """
    script = take_apart(text)
    moves = [part.command for part in script.parts if part.command.name in _MOVES]
    if moves:
        places = places.gone_to(word.text or "" for command in moves for word in command.words[1:])
    deeds = [deed for part in script.parts for deed in _of_part(part, places, trusts_git)]
    if script.doubts:
        deeds.append(_shell(text, Finding(Reach.UNSURE, f"cannot be judged for sure: {script.doubts[0]}")))
    return deeds or [_shell(text, Finding(Reach.READS, "does nothing"))]


def _reads() -> Finding:
    return Finding(Reach.READS, "only reads")


def _shell(subject: str, finding: Finding, other_subjects: tuple[str, ...] = ()) -> Deed:
    return Deed(("shell",), subject, finding, other_subjects, in_box=True)


def _of_part(part: Part, places: Places, trusts_git: bool) -> list[Deed]:
    """Redirections, variables and more rights are deeds of their own: a rule that allows the program allows none."""
    command = part.command
    deeds = [_of_redirection(redirection, places) for redirection in command.redirections]
    deeds += [_shell(f"{name}=", Finding(Reach.RUNS, "sets what programs obey")) for name in obeyed(command)]
    more_rights = Finding(Reach.OUTSIDE, "asks for more rights")
    deeds += [_shell(_subject(outer), more_rights) for outer in part.wrappers if outer.name in _OTHER_USERS]
    if command.words:
        subject = _subject(command)
        strictest = max(_findings(command, places, trusts_git), key=lambda finding: finding.reach)
        deed = _shell(subject, strictest, _other_subjects(part, subject))
        deeds.append(replace(deed, starts=_starts(command)))
    return deeds


def _of_redirection(redirection: Redirection, places: Places) -> Deed:
    target = redirection.target
    shown = f"{redirection.operator} {target.source}"
    if not redirection.writes:
        finding = places.reading(target) if redirection.operator == "<" else None
        return _shell(shown, finding or _reads())
    finding = places.writing(target) or Finding(Reach.EDITS, "writes a file")
    if target.text is None or places.is_outside(target.text):
        return _shell(shown, finding)
    # A project file, written by a command: rules for the tools that write speak of it as well.
    return Deed(_WRITERS, places.real(target.text), finding, (places.relative(target.text),), in_box=True)


def _findings(command: SimpleCommand, places: Places, trusts_git: bool) -> list[Finding]:
    finding = find_reach(command)
    findings = [finding]
    if command.name == "git" and not trusts_git:
        findings.append(Finding(Reach.RUNS, "may run programs that this folder's git settings name"))
    if command.name in _MOVES:
        return findings + _of_move(command, places)
    writes = finding.reach in (Reach.EDITS, Reach.COMMITS)
    paths = path_words(command, thorough=finding.reach < Reach.RUNS)
    found = (places.writing(path) if writes else places.reading(path) for path in paths)
    return findings + _of_folders(command, places) + [place for place in found if place is not None]


def _of_folders(command: SimpleCommand, places: Places) -> list[Finding]:
    """With a folder goes all that is in it: links that lead out, and what other programs obey under its new name."""
    operands = [word.text for word in command.words[1:] if word.text and not word.text.startswith("-")]
    if command.name == "rm" and any(places.is_root(operand) for operand in operands):
        return [Finding(Reach.OUTSIDE, "removes the whole project")]
    names_target = any(re.match(r"--t|-[A-Za-z]*t", word.text or "") for word in command.words[1:])
    sources = operands if names_target else operands[:-1]
    if command.name in ("cp", "mv") and any(places.is_folder(source) for source in sources):
        return [Finding(Reach.RUNS, "takes a whole folder elsewhere")]
    return []


def _of_move(command: SimpleCommand, places: Places) -> list[Finding]:
    """The folder a command goes to is where what follows may write."""
    if len(command.words) != 2:
        return [Finding(Reach.UNSURE, "goes to a folder that is not known for sure")]
    word = command.words[1]
    if (word.text or "-").startswith("-"):
        return [Finding(Reach.UNSURE, "goes to a folder that is not known for sure")]
    found = replace(places, boxed=False).entering(word)
    return [found] if found else []


def _subject(command: SimpleCommand) -> str:
    """The command as rules see it: words quoted where they need it; what is not known, as it was written."""
    words = (word.source if word.text is None or word.is_pattern else shlex.quote(word.text) for word in command.words)
    return " ".join(words)


def _starts(command: SimpleCommand) -> tuple[str, ...]:
    """The names of a command as far as they are known; none where all of it is."""
    known = list(takewhile(lambda word: word.text is not None and not word.is_pattern, command.words))
    if len(known) == len(command.words):
        return ()
    texts = [shlex.quote(word.text or "") for word in known]
    plain = [text.rsplit("/", 1)[-1] for text in texts[:1]] + texts[1:]
    spelled = [texts, plain, without_git_options(plain) if plain[:1] == ["git"] else plain]
    return tuple(dict.fromkeys("".join(f"{text} " for text in one) for one in spelled))


def _other_subjects(part: Part, subject: str) -> tuple[str, ...]:
    """How else a rule might name it: wrapped, without a folder before the program, without git's options."""
    others = [_subject(wrapper) for wrapper in part.wrappers]
    texts = [word.text if word.text is not None else word.source for word in part.command.words]
    if texts:
        plain = [texts[0].rsplit("/", 1)[-1], *texts[1:]]
        others.append(" ".join(plain))
        if plain[0] == "git":
            others.append(" ".join(without_git_options(plain)))
    return tuple(other for other in dict.fromkeys(others) if other != subject)
