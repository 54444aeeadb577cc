"""A suite of tasks, as its file says: YAML, or Python with a `SUITE` of the same shape.

    suite: service desk
    kind: dialogue              # or coding, or functions
    policy: |                   # what the agent must keep to
      ...
    world: {database: ..., tools: ..., user_tools: ...}
    tasks:
      - id: refund-in-time
        user: {opening: ..., replies: [...]}
        expect: {rows: [...], calls: {...}, said: [...]}
        reference: [...]        # turns of an agent that does it right
        wrong: [...]            # and of one that does not

What a task's world says comes on top of the suite's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kodkod_app.evaluation.suite_fields import MAX_NAME_BYTES, Expression, FileName, SuiteName, names_in
from kodkod_app.recorded_model import RecordedTurn
from kodkod_engine.messages import ToolSpec

_ID = r"^[a-z0-9][a-z0-9-]*$"
_ONE_NAME = Field(min_length=1, max_length=1)


class SuiteFault(Exception):
    """A suite cannot be found or read."""

    exit_code = 2


class Kind(StrEnum):
    """What tasks of a suite are."""

    CODING = "coding"
    """kodkod's own agent with its own tools, on files."""
    DIALOGUE = "dialogue"
    """A user, a policy, tools on a database; the user may have tools of their own."""
    FUNCTIONS = "functions"
    """One turn: which functions are called how. Nothing is run."""
    HARBOR = "harbor"
    """Task directories of Harbor: their own tests decide."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Requirement(_Frozen):
    """What must be so before a tool acts."""

    sql: str
    """Must give a row; arguments are `:names`."""
    otherwise: str
    """What the tool says where it does not; arguments are `{names}`."""


class ToolPlan(_Frozen):
    """A tool of a world: SQL on its database, or a Python function, or (for `functions`) neither."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = Field(default_factory=dict)
    """JSON schema of each argument."""
    required: tuple[str, ...] | None = None
    """None: all that have no `default`."""
    require: tuple[Requirement, ...] = ()
    do: tuple[str, ...] = ()
    """Statements; arguments are `:names`."""
    give: str = ""
    """A query whose rows are the answer; empty: "done"."""
    python: str | Callable[..., Any] | None = None
    """`module:function` or `file.py:function`; called with the database and the arguments."""

    @model_validator(mode="after")
    def _refuses_in_words(self) -> Self:
        for requirement in self.require:
            if unknown := sorted(set(names_in(requirement.otherwise)) - set(self.parameters)):
                raise ValueError(f"tool {self.name} has no argument {', '.join(map(repr, unknown))} to say")
        return self

    @property
    def spec(self) -> ToolSpec:
        """As the model is told of it."""
        required = [name for name, schema in self.parameters.items() if "default" not in schema]
        schema = {"type": "object", "properties": {name: dict(value) for name, value in self.parameters.items()}}
        schema["required"] = list(self.required) if self.required is not None else required
        return ToolSpec(name=self.name, description=self.description, parameters=schema)


class DatabasePlan(_Frozen):
    """Tables and what is in them."""

    tables: str = ""
    """CREATE TABLE statements."""
    rows: Mapping[str, tuple[tuple[Any, ...], ...]] = Field(default_factory=dict)


class Commit(_Frozen):
    """One commit of a world's history."""

    message: str
    files: Mapping[FileName, str | None]
    """None removes a file."""


class World(_Frozen):
    """What there is at the beginning."""

    files: Mapping[FileName, str] = Field(default_factory=dict)
    """In the work tree, beyond the last commit where there are commits."""
    commits: tuple[Commit, ...] = ()
    """Empty: what is in `files` is committed."""
    database: DatabasePlan = Field(default_factory=DatabasePlan)
    tools: tuple[ToolPlan, ...] = ()
    user_tools: tuple[ToolPlan, ...] = ()

    def over(self, base: World) -> World:
        """This on top of another: files and rows added, tools of the same name replaced."""
        return World(
            files={**base.files, **self.files},
            commits=self.commits or base.commits,
            database=DatabasePlan(
                tables=base.database.tables + self.database.tables,
                rows={**base.database.rows, **self.database.rows},
            ),
            tools=_merged(base.tools, self.tools),
            user_tools=_merged(base.user_tools, self.user_tools),
        )


def _merged(under: tuple[ToolPlan, ...], over: tuple[ToolPlan, ...]) -> tuple[ToolPlan, ...]:
    return tuple({tool.name: tool for tool in (*under, *over)}.values())


class CallPattern(_Frozen):
    """A call that is meant: its name, and what arguments it has at least."""

    name: str
    arguments: Mapping[str, Any] = Field(default_factory=dict)


class Reply(_Frozen):
    """What a scripted user answers."""

    when: Expression = ""
    """An expression found in what the agent said; empty: whatever it said."""
    say: str
    """`{result}` stands for what the user's own tool gave."""
    do: CallPattern | None = None
    """The user uses a tool of their own first."""
    once: bool = True
    ends: bool = False
    """Nothing is said after this; the dialogue is over."""


class User(_Frozen):
    """Who talks to the agent."""

    opening: str
    replies: tuple[Reply, ...] = ()
    """The first that fits is taken."""
    otherwise: str = ""
    """Where none fits; empty: the user leaves."""
    most: int = Field(default=8, ge=0)
    """Answers before the user leaves."""
    scenario: str = ""
    """For a user played by a model: who they are, what they want and know."""


class FileCheck(_Frozen):
    """What a file must be in the end."""

    equals: str | None = None
    contains: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    matches: Expression | None = None
    absent: bool = False
    unchanged: bool = False


class CommandCheck(_Frozen):
    """What a command in the box must come to in the end."""

    run: str
    exit_code: int = 0
    prints: Expression | None = None
    """An expression found in its output."""


class RowCheck(_Frozen):
    """What a query of the database must give in the end."""

    sql: str
    equals: tuple[tuple[Any, ...], ...]


class CallChecks(_Frozen):
    """Which calls must, and must not, have been made."""

    in_order: tuple[CallPattern, ...] = ()
    """Others may stand between."""
    any_order: tuple[CallPattern, ...] = ()
    forbidden: tuple[CallPattern, ...] = ()
    by_user: tuple[CallPattern, ...] = ()
    """The user must have been brought to use these."""
    none: bool = False
    most: int | None = None


class Expectation(_Frozen):
    """What must be so in the end; all of it."""

    files: Mapping[FileName, FileCheck] = Field(default_factory=dict)
    commands: tuple[CommandCheck, ...] = ()
    rows: tuple[RowCheck, ...] = ()
    database_after: tuple[CallPattern, ...] | None = None
    """The whole database must be as these calls leave it (compared by hash); empty: as it was."""
    calls: CallChecks = Field(default_factory=CallChecks)
    functions: tuple[Annotated[Mapping[str, Mapping[str, tuple[Any, ...]]], _ONE_NAME], ...] | None = None
    """Calls with the values accepted for each argument, by the rules of BFCL; empty: no call."""
    said: tuple[Expression, ...] = ()
    """Each found in what the agent said."""
    not_said: tuple[Expression, ...] = ()


class Task(_Frozen):
    """One task."""

    id: str = Field(pattern=_ID, max_length=MAX_NAME_BYTES)
    category: str = ""
    prompt: str = ""
    """For `coding` and `functions`."""
    user: User | None = None
    """For `dialogue`."""
    policy: str = ""
    world: World = Field(default_factory=World)
    max_turns: int = Field(default=20, ge=1)
    expect: Expectation
    reference: tuple[RecordedTurn, ...] = ()
    wrong: tuple[RecordedTurn, ...] = ()
    folder: Path | None = None
    """For `harbor`: the task directory."""


def _told(value: object) -> str:
    """Of a function its name: its address is another one each time."""
    return str(getattr(value, "__qualname__", value))


class Suite(_Frozen):
    """All of it."""

    suite: SuiteName
    kind: Kind
    description: str = ""
    policy: str = ""
    world: World = Field(default_factory=World)
    tasks: tuple[Task, ...] = Field(min_length=1)
    folder: Path | None = None
    """Of the file; tools of Python files are looked for there."""
    format: Literal[1] = 1

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        seen: set[str] = set()
        for task in self.tasks:
            if task.id in seen:
                raise ValueError(f"two tasks are named {task.id}")
            seen.add(task.id)
            if self.kind is Kind.DIALOGUE and task.user is None:
                raise ValueError(f"task {task.id} has no user")
            if self.kind is not Kind.DIALOGUE and not task.prompt:
                raise ValueError(f"task {task.id} has no prompt")
            if self.kind is not Kind.HARBOR and not (task.reference and task.wrong):
                raise ValueError(f"task {task.id} has no reference or no wrong solution")
        return self

    def world_of(self, task: Task) -> World:
        """The suite's world, and what the task adds."""
        return task.world.over(self.world)

    def definition_of(self, task: Task) -> str:
        """Hash of all the suite says of a task, wherever its file lies; the code of tools is not looked at."""
        said = task.model_dump(exclude={"folder"}), self.world_of(task).model_dump(), self.policy_of(task), self.kind
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=_told).encode()).hexdigest()

    def policy_of(self, task: Task) -> str:
        """What the agent is told first."""
        return "\n\n".join(text for text in (self.policy.strip(), task.policy.strip()) if text)
