"""What the calls of a model may be that is left to itself: the declared tools, and in their arguments the work tree.

The schema says of what type an argument is. Where the world says more, it is asked: a path leads to what is there, an
edit quotes what stands in the file and says which place it means where there are several, a line is one the file has.
A path comes before what depends on it; otherwise the arguments may come in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kodkod_agent.call_world import Automata, CallWorld, ChangedWorld, Kind, Tree
from kodkod_agent.schema_grammar import value_by_schema
from kodkod_engine.chat.arguments import argument_kinds, declared_properties
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.acceptors import EndingWhere, OneOf, ValueAcceptor
from kodkod_engine.constraints.free_text import AnyText
from kodkod_engine.constraints.json_values import JsonValue
from kodkod_engine.constraints.paths import ExistingPath, NewPath
from kodkod_engine.constraints.patterns import CallPattern, OpenCall
from kodkod_engine.constraints.turn_constraint import TurnConstraint
from kodkod_engine.messages import ToolSpec
from kodkod_tools import registry
from kodkod_tools.base import ToolContext, ToolError
from kodkod_tools.mcp.followed import why_not_held
from kodkod_tools.mcp.names import PREFIX

_LINES = {("view", "start"), ("view", "end"), ("view", "around"), ("edit", "line"), ("git", "start"), ("git", "end")}
_EXISTING = {("view", "path"): Kind.ANYTHING, ("search", "path"): Kind.ANYTHING, ("find", "path"): Kind.FOLDER,
             ("edit", "path"): Kind.TEXT}  # fmt: skip
_AFTER_PATH = {("edit", "old"), *_LINES}
_TELLS_PLACE = {("edit", "line"), ("edit", "replace_all")}
_EXCLUDES = {
    "view": {"around": {"start", "end"}, "start": {"around"}, "end": {"around"}},
    "shell": {"command": {"job", "kill"}, "job": {"command", "background"}, "kill": {"command", "background"},
              "background": {"job", "kill"}},
}  # fmt: skip
_ONE_OF = {"shell": ("command", "job")}
_MOST_LINES = 999_999_999
"""Of a file that is not known: the library has no ranges beyond 64 bits."""
_NEEDED_BY_ACTION = {"commit": "message", "blame": "path", "restore": "path"}
"""Arguments of git that some actions cannot do without."""


class CallGrammar:
    """Makes the constraint of each turn. Cheap: files are read when a call asks for them."""

    def __init__(self, tokenizer: Tokenizer, specs: Iterable[ToolSpec], tools: ToolContext) -> None:
        self._tokenizer = tokenizer
        self._specs = tuple(specs)
        self._tools = tools
        self._automata = Automata(tokenizer)

    def constraint(self, more: Sequence[ToolSpec] = ()) -> TurnConstraint:
        """What the next turn may be.

        Args:
            more: tools of other programs that the model was told of.

        Raises:
            ValueError: the vocabulary lacks the tags that calls are written with.
        """
        world = CallWorld(self._tools, self._automata)
        specs = (*self._specs, *more)
        return TurnConstraint(self._tokenizer, lambda made: self._patterns(specs, world.after(made)))

    def close(self) -> None:
        """End the thread that builds automata. Turns that are still held to it can prepare none any more."""
        self._automata.close()

    def _patterns(self, specs: Sequence[ToolSpec], world: ChangedWorld) -> list[CallPattern]:
        return [_ToolGrammar(self._tokenizer, spec, world).pattern for spec in specs]


@dataclass(frozen=True)
class _ToolGrammar:
    """Calls of one tool."""

    tokenizer: Tokenizer
    spec: ToolSpec
    world: ChangedWorld

    @property
    def pattern(self) -> CallPattern:
        return OpenCall(self.spec.name, self.follows, self.value).pattern

    @property
    def _is_foreign(self) -> bool:
        return self.spec.name.startswith(PREFIX)

    @cached_property
    def _schema(self) -> Mapping[str, Any]:
        """The tool's own schema where it is one of ours, for it has the bounds that the declaration leaves out."""
        try:
            return dict(registry.get(self.spec.name).arguments.model_json_schema())
        except ToolError:
            return self.spec.parameters

    def follows(self, given: Mapping[str, str]) -> list[str | None]:
        """Keys that may come next; None where the call may end."""
        keys = [key for key in declared_properties(self.spec.parameters) if key not in given]
        excluded = {other for key in given for other in _EXCLUDES.get(self.spec.name, {}).get(key, ())}
        lines = self._telling_lines(given)
        if lines == []:
            excluded.add("line")
        left: list[str | None] = [key for key in keys if key not in excluded and self._is_known(key, given)]
        if "path" in given:
            self._prepare(given["path"])
        needed = self._needed(given) if lines is None else self._needed(given) | {"line", "replace_all"}
        return left if needed & set(left) else [*left, None]

    def _is_known(self, key: str, given: Mapping[str, str]) -> bool:
        return (self.spec.name, key) not in _AFTER_PATH or "path" in given or self.spec.name == "git"

    def _telling_lines(self, given: Mapping[str, str]) -> list[int] | None:
        """Of an edit that does not say yet which of several places it means: the lines that would."""
        if self.spec.name != "edit" or not {"path", "old"} <= given.keys() or "line" in given:
            return None
        return None if given.get("replace_all") == "true" else self.world.telling_lines(given["path"], given["old"])

    def _needed(self, given: Mapping[str, str]) -> set[str | None]:
        """Arguments without which the call may not end."""
        needed = set(self.spec.parameters.get("required", ())) - given.keys()
        choices = _ONE_OF.get(self.spec.name, ())
        if choices and not given.keys() & set(choices):
            needed |= set(choices)
        if self.spec.name == "git" and (other := _NEEDED_BY_ACTION.get(given.get("action", ""))) not in given:
            needed |= {other} if other else set()
        return needed

    def _prepare(self, path: str) -> None:
        """Begin to build what `old` will need, while the model writes its key."""
        if self.spec.name == "edit":
            self.world.quotable(path)

    def value(self, key: str, given: Mapping[str, str]) -> ValueAcceptor:
        """What an argument may be."""
        where, path = (self.spec.name, key), given.get("path")
        if where in _EXISTING:
            logs = self.world.base.tools.log_folder if _EXISTING[where] is Kind.ANYTHING else None
            return ExistingPath(self.tokenizer, Tree(self.world, _EXISTING[where], logs))
        if where == ("write", "path"):
            return NewPath(self.tokenizer, (".git",), self.world.may_be_written, self.world.closed)
        if where == ("git", "path"):
            return NewPath(self.tokenizer, (".git",))
        if where == ("edit", "old") and path is not None:
            return self._old(path, given)
        if where == ("git", "message"):
            return AnyText(self.tokenizer, may_be_blank=False)
        if where in (("git", "name"), ("git", "revision")):
            return AnyText(self.tokenizer, may_be_empty=key == "revision", not_first=b"-")
        if where in _TELLS_PLACE and (lines := self._telling_lines(given)) is not None and (key == "line" or not lines):
            return OneOf(self.tokenizer, map(str, lines) if key == "line" else ["true"])
        if where in _LINES:
            return JsonValue(self.tokenizer, self._line(key, given))
        return self._by_schema(key)

    def _line(self, key: str, given: Mapping[str, str]) -> dict[str, Any]:
        """A line of the file, if it is known; the first and the last of a range are not the wrong way round."""
        lines = self.world.num_lines(given["path"]) if "path" in given else None
        highest = [lines or _MOST_LINES]
        if key == "start" and "end" in given:
            highest.append(int(given["end"]))
        lowest = int(given["start"]) if key == "end" and "start" in given else 1
        return {"type": "integer", "minimum": lowest, "maximum": max(lowest, min(highest))}

    def _old(self, path: str, given: Mapping[str, str]) -> ValueAcceptor:
        """A stretch of the file; if the call said before which place it means, one that can be told by it.

        Any other grows into one: of places that look alike the first can go on for longer than the others.
        """
        built = self.world.quotable(path)
        if built is None:
            raise ValueError(f"{path} cannot be read as text")
        if not given.keys() & {"line", "replace_all"} or given.get("replace_all") == "true":
            return built.result()
        line = int(given["line"]) if "line" in given else None
        return EndingWhere(self.tokenizer, built.result(), lambda old: self.world.can_be_told(path, old, line))

    def _by_schema(self, key: str) -> ValueAcceptor:
        parameters = self.spec.parameters
        if self._is_foreign and (reason := why_not_held(declared_properties(self._schema).get(key))):
            if argument_kinds(key, parameters) == {"string"}:
                return AnyText(self.tokenizer)
            raise ValueError(f"its schema is not followed: {reason}")
        return value_by_schema(self.tokenizer, key, parameters, self._schema)
