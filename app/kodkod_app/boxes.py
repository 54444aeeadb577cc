"""Opening the box a run works in, with the Python environment the project's tests need.

What the person should know of it is told on standard error, once in a process: the boxes of a run's candidates are
made as its own was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import click

from kodkod_app.python_environment import PythonEnvironment
from kodkod_app.render import for_terminal
from kodkod_sandbox.base import BoxOptions, Sandbox
from kodkod_sandbox.choose import BEST_FIRST, SandboxKind, open_sandbox
from kodkod_sandbox.errors import ImageError, SandboxError, SandboxUnavailable


@dataclass(frozen=True, slots=True)
class BoxPlan:
    """What is wanted of a box."""

    work_tree: Path
    kind: SandboxKind
    environment: PythonEnvironment | None = None
    environment_for_docker: bool = False
    """The person named the environment, so it goes into a Docker box too, whose image has Python of its own."""
    allow_build_network: bool = False
    test_command: tuple[str, ...] = ()
    """`auto` passes over an image that has not what this needs when another box would have it."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """What commands see besides."""
    image: str | None = None
    """For Docker: start from this one instead of what the repository asks for."""

    def options(self, kind: SandboxKind) -> BoxOptions:
        """For one kind of box."""
        if self.environment is None or (kind is SandboxKind.DOCKER and not self.environment_for_docker):
            return BoxOptions(self.work_tree, env=self.variables)
        return BoxOptions(
            self.work_tree,
            read_only_paths=self.environment.read_only_paths,
            env={**self.environment.variables, **self.variables},
        )


Tell = Callable[[str], None]
"""Takes a note for the person."""


@cache
def tell(note: str) -> None:
    """One line for the person, the first time it is said."""
    click.echo(f"note: {for_terminal(note)}", err=True)


@asynccontextmanager
async def open_box(plan: BoxPlan, tell: Tell = tell) -> AsyncIterator[Sandbox]:
    """A started box; closed on the way out. `auto` takes the first kind that starts and can run the tests.

    Raises:
        SandboxError: it cannot be had.
    """
    box = await (_open_first(plan, tell) if plan.kind is SandboxKind.AUTO else _open(plan, plan.kind, tell))
    if box.note:
        tell(box.note)
    try:
        yield box
    finally:
        await box.close()


async def _open(plan: BoxPlan, kind: SandboxKind, tell: Tell) -> Sandbox:
    return await open_sandbox(
        kind, plan.options(kind), image=plan.image, allow_build_network=plan.allow_build_network, tell=tell
    )


async def _open_first(plan: BoxPlan, tell: Tell) -> Sandbox:
    reasons, spare = [], None
    for kind in BEST_FIRST:
        try:
            box = await _open(plan, kind, tell)
        except SandboxError as fault:
            reasons.append(f"{kind}: {fault}")
            if isinstance(fault, ImageError):  # a daemon is there, and the person may think that it is used
                tell(f"{kind} is passed over: {fault}")
            continue
        if await _can_test(box, plan):
            return box
        if box.note:
            tell(f"{kind} is passed over: {box.note}")
        spare = spare or kind
    if spare is not None:
        return await _open(plan, spare, tell)
    raise SandboxUnavailable(
        f"no box can be had here ({'; '.join(reasons)}): mend one of these, or accept commands without one by "
        "--sandbox none"
    )


async def _can_test(box: Sandbox, plan: BoxPlan) -> bool:
    """Whether the box has what the tests need; one that has not is closed, and one that fails."""
    can_test = False
    try:
        can_test = await _has_what_tests_need(box, plan)
    finally:
        if not can_test:
            await box.close()
    return can_test


async def _has_what_tests_need(box: Sandbox, plan: BoxPlan) -> bool:
    """A Docker image that was not made for the project often has not."""
    if plan.environment is None or "VIRTUAL_ENV" in box.options.env:
        return True
    if box.note:
        return False
    return "pytest" not in plan.test_command or (await box.exec([*plan.test_command, "--version"])).exit_code == 0


def is_closed_box(box: Sandbox) -> bool:
    """Whether it holds the work tree alone and has no network."""
    return box.name != SandboxKind.NONE and not box.options.network
