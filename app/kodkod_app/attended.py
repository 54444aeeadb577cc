"""A session with a person there, opened for whatever they see it through: the terminal app, or an editor.

wish ──► options ──► box ──► model ──► extras ──► session
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from kodkod_agent.policy import PermissionMode
from kodkod_agent.session import Session
from kodkod_app.bootstrap import SMALL_MODEL_NOTE, Model, require_model
from kodkod_app.boxes import BoxPlan, open_box
from kodkod_app.extras import Extras
from kodkod_app.session_opening import (
    Extension,
    RunOptions,
    box_plan,
    extras_of,
    open_session,
    require_folder,
    session_setup,
    what_was_asked,
)
from kodkod_app.settings import Settings, merge_layers
from kodkod_app.telemetry import require_telemetry
from kodkod_app.trust import session_settings
from kodkod_app.wish import Wish
from kodkod_sandbox.base import Sandbox

LoadModel = Callable[[Settings], Awaitable[Model]]


@dataclass(frozen=True, slots=True)
class Attended:
    """All that was opened."""

    settings: Settings
    plan: BoxPlan
    box: Sandbox
    model: Model
    extras: Extras
    session: Session


async def open_attended(
    wish: Wish,
    load_model: LoadModel,
    stack: AsyncExitStack,
    *,
    tell: Callable[[str], None] | None = None,
    way_back: str = "",
) -> Attended:
    """Begin a session, or open one again.

    Args:
        wish: which, and where.
        load_model: opens the model that the settings name; whoever opens it closes it.
        stack: closes the rest, but for the session.
        tell: takes notes for the person, a line each; else the session's first run tells what its extras have to say.
        way_back: see `open_extras`.

    Raises:
        SettingsFault, WorkTreeUnfit, SandboxError, CheckpointError, SessionNotFound, ...: each with its `exit_code`.
    """
    options = _options(wish)
    settings = options.settings
    require_model(settings.model)
    require_telemetry(settings.telemetry)
    await require_folder(options)
    plan = box_plan(options)
    box = await stack.enter_async_context(open_box(plan, tell) if tell is not None else open_box(plan))
    model = await load_model(settings)
    extras = await stack.enter_async_context(extras_of(options, model, way_back))
    if settings.model is None:
        extras = replace(extras, news=_with_first(SMALL_MODEL_NOTE, extras.news))
    if tell is not None:
        for note in extras.news():
            tell(note)
    setup = session_setup(settings, model, box, extras)
    reads_ahead = settings.agent.read_ahead and not model.is_recording
    session = await open_session(options, replace(setup, reads_ahead=reads_ahead))
    return Attended(settings, plan, box, model, extras, session)


def _with_first(note: str, news: Callable[[], Sequence[str]]) -> Callable[[], Sequence[str]]:
    """The same news, told of after a note when it is first asked for."""
    notes = [note]

    def told() -> list[str]:
        found = [*notes, *news()]
        notes.clear()
        return found

    return told


def _options(wish: Wish) -> RunOptions:
    before = what_was_asked(wish.session_id) if wish.session_id is not None else {}
    asked = merge_layers(merge_layers(before, dict(wish.said)), {"agent": {"attended": True}})
    settings = session_settings(wish.work_tree, trusted=wish.trusts, environment=os.environ, flags=asked)
    update = {
        "permission_mode": settings.permission_mode or PermissionMode.DEFAULT,
        "mcp_servers": {**wish.servers, **settings.mcp_servers},
    }
    return RunOptions(
        wish.work_tree,
        settings.model_copy(update=update),
        None,
        wish.session_id,
        wish.fork,
        wish.fork_step,
        wish.allow_build_network,
        extras=Extension.TRUSTED if wish.trusts else Extension.KNOWN,
        asked=asked,
    )
