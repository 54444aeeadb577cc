"""Programs that only read unless a word makes them do more: for each, whether its words are such that it only reads.

A guard is given the words behind the program's name, all of them known, none of them a pattern that may become an
option. What it does not know is more than reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from kodkod_agent.shell_script import names

_OWN_NAME = re.compile(r"[a-z_][a-z_0-9]*")
_OBEYED = re.compile(r".*_proxy|npm_config_.*")
_SED_SCRIPT = re.compile(
    r"(?:(?:\d+|\$)(?:,(?:\d+|\$|\+\d+))?[pdq=]|/[^/\\\n]*/[pd])(?:;(?:\d+|\$)(?:,(?:\d+|\$))?[pdq=])*"
)
_SET_OPTIONS = re.compile(r"[-+][eux]+|-[eux]*o|pipefail")
_FIND_OPTIONS = names(
    "-name -iname -path -ipath -type -maxdepth -mindepth -size -mtime -mmin -newer -empty -print -print0 -prune -not "
    "-o -or -a -and -regex -iregex -regextype -perm -user -group -P -H -depth -xdev -mount -printf -ls "
    "-readable -writable -executable -links -inum -quit -true -false -wholename -daystart"
)
"""Without those that follow the links it meets: they may lead out of the project."""
_SORT_OPTION = re.compile(
    r"-[bdfghinrRuVMczsm]*(?:[kt].*)?|--(?:reverse|unique|numeric-sort|version-sort|human-numeric-sort)"
)
_JQ_OPTION = re.compile(
    r"-[cnresSCMjahR0]+|--(?:compact-output|null-input|raw-output|raw-input|slurp|sort-keys|tab|indent|exit-status|"
    r"join-output|ascii-output|color-output|monochrome-output|stream|seq|arg|argjson|args|jsonargs)"
)
_JQ_READS = re.compile(r"\b(?:import|include|modulemeta|get_search_list)\b")
_PRINTF_COUNTS = re.compile(r"%[^%a-mo-zA-Z]*[hlLjzt]*n")


def is_own_name(name: str) -> bool:
    """Whether no program is known to obey a variable of this name."""
    return _OWN_NAME.fullmatch(name) is not None and not _OBEYED.fullmatch(name)


def may_be(text: str, option: str) -> bool:
    """Whether a program takes a word for a long option: any beginning of it that is not ambiguous will do."""
    given = text.split("=")[0]
    return len(given) > 2 and given.startswith("--") and (option.startswith(given) or given.startswith(option))


def _find(texts: Sequence[str]) -> bool:
    return all(not text.startswith("-") or text in _FIND_OPTIONS or text[1:].isdecimal() for text in texts)


def _sed(texts: Sequence[str]) -> bool:
    """`sed -n 5,20p file` and its like: printing and dropping lines, nothing else."""
    scripts: list[str] = []
    operands: list[str] = []
    left = list(texts)
    while left:
        text = left.pop(0)
        if text in ("-e", "-ne"):
            scripts.append(left.pop(0) if left else "")
        elif not text.startswith("-"):
            operands.append(text)
        elif text not in ("-n", "-E", "-r", "--quiet"):
            return False
    scripts = scripts or operands[:1]
    return bool(scripts) and all(_SED_SCRIPT.fullmatch(script) for script in scripts)


def _test(texts: Sequence[str]) -> bool:
    # `-v` and `-R` evaluate the subscript of a variable's name, and a subscript may run commands.
    return not {"-v", "-R"} & set(texts)


def _printf(texts: Sequence[str]) -> bool:
    # `%n` puts a number into the variable that is named, PATH for one.
    return bool(texts) and not texts[0].startswith("-") and not _PRINTF_COUNTS.search(texts[0])


def _jq(texts: Sequence[str]) -> bool:
    """A program reads other files by its words for modules, wherever they lie."""
    options = [text for text in texts if text.startswith("-")]
    return all(_JQ_OPTION.fullmatch(text) for text in options) and not any(_JQ_READS.search(text) for text in texts)


def _has_letter(texts: Sequence[str], letters: str) -> bool:
    """Whether one of these stands among short options."""
    return any(re.match(rf"-[A-Za-z0-9]*[{letters}]", text) for text in texts)


def _grep(texts: Sequence[str]) -> bool:
    # With -R links are followed, out of the project too.
    return not _has_letter(texts, "R") and not any(may_be(text, "--dereference-recursive") for text in texts)


def _rg(texts: Sequence[str]) -> bool:
    runs = ("--pre", "--hostname-bin", "--follow")
    return not _has_letter(texts, "L") and not any(may_be(text, option) for text in texts for option in runs)


def _diff(texts: Sequence[str]) -> bool:
    return not _has_letter(texts, "r") and not any(may_be(text, "--recursive") for text in texts)


GUARDS: Mapping[str, Callable[[Sequence[str]], bool]] = {
    "find": _find,
    "sed": _sed,
    "test": _test,
    "[": _test,
    "printf": _printf,
    "jq": _jq,
    "grep": _grep,
    "egrep": _grep,
    "fgrep": _grep,
    "rg": _rg,
    "diff": _diff,
    "sort": lambda texts: all(not t.startswith("-") or bool(_SORT_OPTION.fullmatch(t)) for t in texts),
    "uniq": lambda texts: sum(text == "-" or not text.startswith("-") for text in texts) <= 1,
    "date": lambda texts: all(text.startswith("+") or text in ("-u", "-I") for text in texts),
    "tree": lambda texts: not _has_letter(texts, "olR") and not any(text.startswith("--output") for text in texts),
    "file": lambda texts: not any(re.match(r"-[A-Za-z]*[CmzZ]|--", text) for text in texts),
    "read": lambda texts: all(text == "-r" or is_own_name(text) for text in texts),
    "set": lambda texts: bool(texts) and all(bool(_SET_OPTIONS.fullmatch(text)) for text in texts),
    "command": lambda texts: texts[:1] in (["-v"], ["-V"]),
    "exec": lambda texts: not texts,
}
TAKE_NO_PATTERN = names("uniq printf")
"""A name more, put in a pattern's place, is a file to write to, or a format."""
