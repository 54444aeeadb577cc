"""Tools on a database: each call runs against SQLite in memory, and what it gives is JSON.

A call that cannot be done is a result, with the reason; the model reads it and goes on.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import runpy
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kodkod_app.evaluation.suite import CallPattern, DatabasePlan, SuiteFault, ToolPlan, World

_MAX_ROWS = 200
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (dict,),
}


_DATABASE_FAULTS = (sqlite3.Error, OverflowError, UnicodeEncodeError)
"""What SQLite says, and values it cannot hold: whole numbers beyond 64 bits, half of a character."""


class ToolRefusal(Exception):
    """A tool does not do what was asked; its text is what the caller reads."""


class ToolBroken(Exception):
    """A tool's own function failed: a fault of the suite, which ends the trial."""


class Desk:
    """The tools of a world and the database behind them. Closed by whoever made it."""

    def __init__(self, world: World, folder: Path | None = None) -> None:
        """Make the database as it is at the beginning.

        Raises:
            SuiteFault: tables, rows or a Python tool are not as they should be.
        """
        self._database = open_database(world.database)
        self._tools = {tool.name: tool for tool in world.tools}
        self._user_tools = {tool.name: tool for tool in world.user_tools}
        self._functions = {
            tool.name: _function(tool, folder) for tool in (*world.tools, *world.user_tools) if tool.python
        }

    def call(self, name: str, arguments: Mapping[str, Any], *, by_user: bool = False) -> str:
        """Do a call; what comes of it, as JSON text. The agent's tools and the user's are apart.

        Raises:
            ToolBroken: the function of a tool fails, or gives what is no JSON.
        """
        tools = self._user_tools if by_user else self._tools
        try:
            tool = _found(tools, name)
            given = self._run(tool, _checked(tool, arguments))
        except ToolRefusal as refusal:
            self._database.rollback()
            given = {"error": str(refusal)}
        except _DATABASE_FAULTS as fault:
            self._database.rollback()
            given = {"error": f"the database refused: {fault}"}
        else:
            self._database.commit()
        return _json(name, given)

    def _run(self, tool: ToolPlan, arguments: Mapping[str, Any]) -> Any:
        if tool.name in self._functions:
            return _called(tool.name, self._functions[tool.name], self._database, arguments)
        # Every name a statement may use is bound; one that was left out is NULL.
        bound = {name: _plain(arguments.get(name)) for name in tool.parameters}
        for requirement in tool.require:
            if self._database.execute(requirement.sql, bound).fetchone() is None:
                raise ToolRefusal(requirement.otherwise.format_map(bound))
        for statement in tool.do:
            self._database.execute(statement, bound)
        if not tool.give:
            return "done"
        rows = self._database.execute(tool.give, bound)
        names = [column[0] for column in rows.description]
        found = [dict(zip(names, row, strict=True)) for row in rows.fetchmany(_MAX_ROWS)]
        return found[0] if len(found) == 1 else found

    def query(self, sql: str) -> list[list[Any]]:
        """Rows of a query, for checks.

        Raises:
            SuiteFault: it cannot be run.
        """
        try:
            return [list(row) for row in self._database.execute(sql)]
        except _DATABASE_FAULTS as fault:
            raise SuiteFault(f"the check {sql!r} cannot be run ({fault}); correct the suite") from fault

    @property
    def fingerprint(self) -> str:
        """Hash of all that is in the database, whatever the order in which it came there."""
        return fingerprint(self._database)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()


def open_database(plan: DatabasePlan) -> sqlite3.Connection:
    """A database in memory.

    Raises:
        SuiteFault: it cannot be made.
    """
    database = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        database.executescript(plan.tables)
        for table, rows in plan.rows.items():
            for row in rows:
                marks = ", ".join("?" * len(row))
                database.execute(f'INSERT INTO "{table}" VALUES ({marks})', [_plain(value) for value in row])
        database.commit()
    except _DATABASE_FAULTS as fault:
        database.close()
        raise SuiteFault(f"the database of the suite cannot be made ({fault}); correct its tables and rows") from fault
    return database


def fingerprint(database: sqlite3.Connection) -> str:
    """See `Desk.fingerprint`."""
    tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    whole = {name: sorted(repr(row) for row in database.execute(f'SELECT * FROM "{name}"')) for name in tables}
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def fingerprint_after(world: World, calls: Sequence[CallPattern], folder: Path | None = None) -> str:
    """What the database would be after these calls, the user's own among them.

    Raises:
        SuiteFault: one of them cannot be done.
    """
    desk = Desk(world, folder)
    own = {tool.name for tool in world.user_tools}
    try:
        for call in calls:
            given = json.loads(desk.call(call.name, call.arguments, by_user=call.name in own))
            if isinstance(given, dict) and "error" in given:
                raise SuiteFault(f"the expected call {call.name} cannot be done ({given['error']}); correct the suite")
        return desk.fingerprint
    finally:
        desk.close()


def _called(name: str, function: Callable[..., Any], database: sqlite3.Connection, arguments: Mapping[str, Any]) -> Any:
    try:
        return function(database, **arguments)
    except (ToolRefusal, *_DATABASE_FAULTS):
        raise
    except Exception as fault:  # it is the suite's own code
        raise ToolBroken(f"the tool {name} failed ({type(fault).__name__}: {fault}); correct the suite") from fault


def _json(name: str, given: Any) -> str:
    try:
        return json.dumps(given, default=str)
    except (TypeError, ValueError, RecursionError) as fault:
        raise ToolBroken(f"the tool {name} gives what is no JSON ({fault}); correct the suite") from fault


def _found(tools: Mapping[str, ToolPlan], name: str) -> ToolPlan:
    if name not in tools:
        raise ToolRefusal(f"there is no tool {name}; there are {', '.join(tools) or 'none'}")
    return tools[name]


def _checked(tool: ToolPlan, arguments: Mapping[str, Any]) -> dict[str, Any]:
    spec = tool.spec.parameters
    if unknown := sorted(set(arguments) - set(spec["properties"])):
        raise ToolRefusal(f"{tool.name} takes no {', '.join(unknown)}; it takes {', '.join(spec['properties'])}")
    if missing := [name for name in spec["required"] if name not in arguments]:
        raise ToolRefusal(f"{tool.name} needs {', '.join(missing)}")
    for name, value in arguments.items():
        wanted = spec["properties"][name].get("type", "string")
        fits = isinstance(value, _TYPES.get(wanted, (object,))) and (wanted == "boolean" or not isinstance(value, bool))
        choices = spec["properties"][name].get("enum")
        if not fits or (choices is not None and value not in choices):
            raise ToolRefusal(f"{name} must be {' or '.join(map(str, choices)) if choices else wanted}, not {value!r}")
    return dict(arguments)


def _plain(value: Any) -> Any:
    """As SQLite holds it."""
    return json.dumps(value) if isinstance(value, dict | list | tuple) else value


def _function(tool: ToolPlan, folder: Path | None) -> Callable[..., Any]:
    if callable(tool.python):
        return tool.python
    place, _, name = str(tool.python).rpartition(":")
    try:
        if place.endswith(".py"):
            return runpy.run_path(str((folder or Path()) / place))[name]  # type: ignore[no-any-return]
        return getattr(importlib.import_module(place), name)  # type: ignore[no-any-return]
    except (OSError, ImportError, KeyError, AttributeError, ValueError) as fault:
        raise SuiteFault(f"the tool {tool.name} has no function {tool.python} ({fault}); correct the suite") from fault
