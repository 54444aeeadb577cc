"""May this call go ahead? Allow, ask or deny, by mode, rules and what the call would touch.

A call is first measured (`Reach`), part by part for shell commands, and the strictest part speaks for all. Rules come
first: deny over ask over allow. Where no rule speaks, the mode does:

    mode          reads    edits    commits    runs code    outside, unsure
    default       allow    ask      ask        ask          ask
    plan          allow    deny     deny       deny         deny
    acceptEdits   allow    allow    ask        ask          ask
    auto          allow    allow    allow      ask          ask
    dontAsk       as default, with deny for ask
    bypass…       allow    allow    allow      allow        allow

In a box without network (`sandboxed`) code may run and shell commands may edit in `default`, `acceptEdits`, `auto` and
`dontAsk` alike: the box holds them in the project, and every step has a snapshot to go back to. The edit and write
tools still follow the table. What names something outside the project, or in a repository of its own inside it (a
submodule: no snapshot holds it), or cannot be told for sure, is asked even so.

Tools of MCP servers are "outside" in the table, whatever the server says of them. Rules speak of one as
`mcp__SERVER__TOOL`, of all of a server as `mcp__SERVER`; a pattern is the fingerprint of a definition.

Nothing is run here; the file system is only looked at to see where symbolic links lead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from kodkod_agent import deeds
from kodkod_agent.deeds import Deed
from kodkod_agent.generalise import suggest_rules
from kodkod_agent.places import Places
from kodkod_agent.rules import Rule, Rules
from kodkod_agent.shell_reach import Reach
from kodkod_engine.messages import ToolCall
from kodkod_tools.base import ForeignTool, ToolError
from kodkod_tools.registry import parse_call


class PermissionMode(StrEnum):
    """How much is done without asking."""

    DEFAULT = "default"
    """Looking is free; changing and running is asked."""
    PLAN = "plan"
    """Looking only; everything else is denied, whatever the rules allow."""
    ACCEPT_EDITS = "acceptEdits"
    """Edits of project files need no asking."""
    AUTO = "auto"
    """Nor do commits and branches."""
    DONT_ASK = "dontAsk"
    """What would be asked is denied: for runs nobody watches."""
    BYPASS_PERMISSIONS = "bypassPermissions"
    """Everything goes ahead, except what a rule denies or asks."""


class Verdict(StrEnum):
    """What becomes of a call."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


_STRICTNESS = {Verdict.ALLOW: 0, Verdict.ASK: 1, Verdict.DENY: 2}


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and what a person or the model is told of it."""

    verdict: Verdict
    reason: str
    """One line."""
    matched_rule: Rule | None = None
    suggested_rules: tuple[Rule, ...] = ()
    """What `always` would save so that such a call is allowed; empty when that is not offered."""
    asked: frozenset[str] = frozenset()
    """Names all that is asked about, so that it is known again."""


_FREE_REACH: Mapping[PermissionMode, Reach] = {
    PermissionMode.DEFAULT: Reach.READS,
    PermissionMode.PLAN: Reach.READS,
    PermissionMode.ACCEPT_EDITS: Reach.EDITS,
    PermissionMode.AUTO: Reach.COMMITS,
    PermissionMode.DONT_ASK: Reach.READS,
    PermissionMode.BYPASS_PERMISSIONS: Reach.UNSURE,
}
_MAX_SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class _Scene:
    """What a call is judged in."""

    mode: PermissionMode
    rules: Rules
    trusted: bool
    sandboxed: bool

    @property
    def free_reach(self) -> Reach:
        """How far the mode lets things go unasked."""
        # In a stranger's folder no mode opens more by itself; only an outright bypass does.
        narrowed = not self.trusted and self.mode is not PermissionMode.BYPASS_PERMISSIONS
        return Reach.READS if narrowed else _FREE_REACH[self.mode]


def judge(
    call: ToolCall,
    *,
    mode: PermissionMode,
    rules: Rules,
    work_tree: Path,
    trusted: bool,
    sandboxed: bool = False,
    more: Mapping[str, ForeignTool] = MappingProxyType({}),
) -> Decision:
    """Whether a call may go ahead.

    Args:
        call: as the model wrote it. One that cannot be read is allowed: the answer will be an error, and nothing runs.
        mode: how much is done without asking.
        rules: merged already (`merge_rules`).
        work_tree: absolute and resolved.
        trusted: whether the user trusts this folder. If not, modes open nothing by themselves, and git in a shell
            counts as running code unless it is in a box, for a repository's settings may name programs.
        sandboxed: shell commands and tests run in a box that holds the work tree alone and has no network.
        more: tools of other programs, by name.
    """
    scene = _Scene(mode, rules, trusted, sandboxed)
    places = Places(work_tree, boxed=sandboxed)
    try:
        tool, arguments = parse_call(call, more)
    except ToolError as error:
        return Decision(Verdict.ALLOW, f"nothing is run: {error.message.splitlines()[0]}")
    if (foreign := more.get(call.name)) is tool and foreign is not None:
        return _judge_deed(deeds.of_foreign(foreign), scene)
    command = getattr(arguments, "command", None) if call.name == "shell" else None
    if command is None:
        return _judge_deed(deeds.of_tool(call.name, tool.effect, arguments, places), scene)
    if rule := _first_match(rules.deny, ("shell",), (command.strip(),)):
        return Decision(Verdict.DENY, f"{_shown(command)}: denied by the rule {rule}", rule)
    found = deeds.of_shell(command, places, trusts_git=trusted or sandboxed)
    return _strictest([_judge_deed(deed, scene) for deed in found])


def _strictest(decisions: list[Decision]) -> Decision:
    """The strictest of all; of several asked, with the rules that would allow every one of them."""
    strictest = max(decisions, key=lambda decision: _STRICTNESS[decision.verdict])
    if strictest.verdict is not Verdict.ASK:
        return strictest
    asked = [decision for decision in decisions if decision.verdict is Verdict.ASK]
    everything = frozenset().union(*(decision.asked for decision in asked))
    if not all(decision.suggested_rules for decision in asked):
        return replace(next(decision for decision in asked if not decision.suggested_rules), asked=everything)
    suggested = dict.fromkeys(rule for decision in asked for rule in decision.suggested_rules)
    return replace(strictest, suggested_rules=tuple(suggested), asked=everything)


def _judge_deed(deed: Deed, scene: _Scene) -> Decision:
    shown, finding = _shown(deed.tools[0] if deed.is_foreign else deed.subject), deed.finding
    every_name = (deed.subject, *deed.other_subjects)
    if rule := _first_match(scene.rules.deny, deed.tools, every_name):
        return Decision(Verdict.DENY, f"{shown}: denied by the rule {rule}", rule)
    if scene.mode is PermissionMode.PLAN and finding.reach > Reach.READS:
        return Decision(Verdict.DENY, f"{shown} {finding.why}; in plan mode only reading is done")
    if rule := _first_match(scene.rules.ask, deed.tools, every_name):
        return _asked(Decision(Verdict.ASK, f"{shown}: asked by the rule {rule}", rule), deed, scene)
    if rule := _first_possible(scene.rules.deny + scene.rules.ask, deed):
        return _asked(Decision(Verdict.ASK, f"{shown} may be what the rule {rule} speaks of", rule), deed, scene)
    rule = _first_match(scene.rules.allow, deed.tools, (deed.subject,))
    if rule and finding.reach is not Reach.UNSURE:
        return Decision(Verdict.ALLOW, f"{shown}: allowed by the rule {rule}", rule)
    if _is_free(deed, scene):
        return Decision(Verdict.ALLOW, f"{shown} {finding.why}")
    why = f"{finding.why}{_changed(deed, scene.rules.allow)}"
    return _asked(Decision(Verdict.ASK, f"{shown} {why}", None, suggest_rules(deed)), deed, scene)


def _changed(deed: Deed, allowed: Iterable[Rule]) -> str:
    """Says that another definition of the same tool was allowed."""
    other = any(rule.tool == deed.tools[0] and rule.pattern is not None for rule in allowed)
    return "; its definition is not the one that was allowed" if deed.is_foreign and other else ""


def _is_free(deed: Deed, scene: _Scene) -> bool:
    reach = deed.finding.reach
    if scene.mode is PermissionMode.BYPASS_PERMISSIONS and reach is Reach.UNSURE:
        # What cannot be told could be the very thing a rule denies or asks.
        return not any(rule.tool in deed.tools for rule in scene.rules.deny + scene.rules.ask)
    boxed = scene.sandboxed and deed.in_box and reach in (Reach.EDITS, Reach.RUNS)
    return boxed or reach <= scene.free_reach


def _asked(decision: Decision, deed: Deed, scene: _Scene) -> Decision:
    if scene.mode is not PermissionMode.DONT_ASK:
        named = f"{deed.tools} {deed.subject} {deed.finding}"
        return replace(
            decision, asked=frozenset({hashlib.sha256(named.encode("utf-8", "surrogateescape")).hexdigest()[:16]})
        )
    return Decision(Verdict.DENY, f"{decision.reason}; nobody is there to ask", decision.matched_rule)


def _first_match(rules: Iterable[Rule], tools: tuple[str, ...], subjects: tuple[str, ...]) -> Rule | None:
    for rule in rules:
        matches = rule.matches_command if rule.tool == "shell" else rule.matches_path
        if rule.tool in tools and any(matches(subject) for subject in subjects):
            return rule
    return None


def _first_possible(rules: Iterable[Rule], deed: Deed) -> Rule | None:
    """Of a command with words that are only known when it runs: a rule that may turn out to speak of it."""
    of_shell = (rule for rule in rules if rule.tool in deed.tools and rule.tool == "shell")
    return next((rule for rule in of_shell if any(rule.may_match_command(start) for start in deed.starts)), None)


def _shown(subject: str) -> str:
    line = " ".join(subject.split())
    return line if len(line) <= _MAX_SHOWN_CHARS else f"{line[: _MAX_SHOWN_CHARS - 1]}…"
