"""The agent as the protocol has it: sessions begun and opened again, prompts followed to their end, questions asked.

editor ── prompt ──► Session ── events ──► Telling ── updates ──► editor
   ▲                    │
   └── permission ◄─────┘ ApprovalAsked
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from functools import wraps
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import acp
from acp import RequestError
from acp.schema import (
    AgentCapabilities,
    Implementation,
    InitializeResponse,
    ListSessionsResponse,
    LoadSessionResponse,
    McpCapabilities,
    NewSessionResponse,
    PromptCapabilities,
    PromptResponse,
    SessionCapabilities,
    SessionInfo,
    SessionListCapabilities,
    SessionMode,
    SessionModeState,
    SetSessionModeResponse,
    StopReason,
    ToolCallUpdate,
)

from kodkod_agent import events
from kodkod_agent.approval import Approval
from kodkod_agent.errors import SessionBusy
from kodkod_agent.policy import PermissionMode, Verdict
from kodkod_agent.rules import Rule
from kodkod_agent.session_folder import SessionFolder, list_sessions
from kodkod_agent.state import Status
from kodkod_app import paths
from kodkod_app.editor.asking import approval_of, options_for, told_question
from kodkod_app.editor.call_content import diff_content, text_content
from kodkod_app.editor.commands import compact_focus, told_commands
from kodkod_app.editor.desk import Desk, Models, open_desk
from kodkod_app.editor.mcp_servers import servers_of
from kodkod_app.editor.prompt_text import prompt_text
from kodkod_app.session_opening import candidates_for
from kodkod_app.session_story import unanswered, whole_steps
from kodkod_app.tui.preview import told_box, would_change
from kodkod_app.tui.screens.judging import judge_of
from kodkod_app.wish import Wish

_MODES = {
    PermissionMode.DEFAULT: ("Ask", "Looking is free; changing and running is asked."),
    PermissionMode.ACCEPT_EDITS: ("Accept edits", "Edits of project files need no asking."),
    PermissionMode.PLAN: ("Plan", "Looking only."),
    PermissionMode.AUTO: ("Auto", "Edits, commits and branches need no asking."),
}
"""Those a person can change to in the editor. One set on the command line is shown besides."""
_STOPS: dict[Status, StopReason] = {Status.LIMIT: "max_turn_requests", Status.INTERRUPTED: "cancelled"}
_MAX_LISTED = 100
_P = ParamSpec("_P")
_ResultT = TypeVar("_ResultT")


def _told(method: Callable[_P, Awaitable[_ResultT]]) -> Callable[_P, Awaitable[_ResultT]]:
    """Faults that are known become errors of the protocol, in one line."""

    @wraps(method)
    async def call(*args: _P.args, **kwargs: _P.kwargs) -> _ResultT:
        try:
            return await method(*args, **kwargs)
        except Exception as fault:
            if getattr(fault, "exit_code", None) is None:
                raise
            raise RequestError(-32603, " ".join(str(fault).split())) from fault

    return call


class KodkodAgent:
    """See `acp.Agent`."""

    def __init__(
        self, said: Mapping[str, Any], note: Callable[[str], object] = lambda _: None, *, trusts: bool = False
    ) -> None:
        """Nothing is opened yet.

        Args:
            said: flags, as a layer of settings.
            note: takes a line for the editor's log.
            trusts: what projects bring along and needs trust is used for this once.
        """
        self._said = said
        self._note = note
        self._trusts = trusts
        self._models = Models()
        self._desks: dict[str, Desk] = {}
        self._editor: acp.Client | None = None
        self._tellings: set[asyncio.Task[None]] = set()
        """Kept, for nobody waits for them."""

    def on_connect(self, conn: acp.Client) -> None:
        """Remember whom to tell."""
        self._editor = conn

    async def initialize(self, protocol_version: int, **_: Any) -> InitializeResponse:
        """Say who this is and what it can do."""
        del protocol_version  # one version is all there is; the editor leaves when it has another
        return InitializeResponse(
            protocol_version=acp.PROTOCOL_VERSION,
            agent_info=Implementation(name="kodkod", title="kodkod", version=version("kodkod")),
            agent_capabilities=AgentCapabilities(
                load_session=True,
                prompt_capabilities=PromptCapabilities(embedded_context=True),
                mcp_capabilities=McpCapabilities(http=True),
                session_capabilities=SessionCapabilities(list=SessionListCapabilities()),
            ),
            auth_methods=[],
        )

    async def authenticate(self, method_id: str, **_: Any) -> None:
        """There is nobody to prove oneself to."""
        del method_id

    @_told
    async def new_session(self, cwd: str, mcp_servers: Sequence[Any] | None = None, **_: Any) -> NewSessionResponse:
        """Begin a session in a folder."""
        desk = await self._open(_folder(cwd), None, mcp_servers)
        self._tell_soon(desk.session.id)
        return NewSessionResponse(session_id=desk.session.id, modes=_modes(desk))

    @_told
    async def load_session(
        self, cwd: str, session_id: str, mcp_servers: Sequence[Any] | None = None, **_: Any
    ) -> LoadSessionResponse:  # fmt: skip
        """Open a session again, and tell all that was said and done in it."""
        folder = SessionFolder.find(paths.sessions_folder(), session_id)
        work_tree = _folder(cwd)
        if folder.info.work_tree != work_tree:
            details = f"session {session_id} works on {folder.info.work_tree}; open that folder"
            raise RequestError.invalid_params({"details": details})
        if (before := self._desks.pop(session_id, None)) is not None:
            await before.close()
        steps = await asyncio.to_thread(whole_steps, folder)
        desk = await self._open(work_tree, session_id, mcp_servers)
        said = await asyncio.to_thread(unanswered, folder, desk.session.ledger.view)
        for update in desk.telling.past(steps, said):
            await self._update(session_id, update)
        self._tell_soon(session_id)
        return LoadSessionResponse(modes=_modes(desk))

    async def list_sessions(self, cwd: str | None = None, **_: Any) -> ListSessionsResponse:
        """The latest sessions, of one folder or of all."""
        tree = Path(cwd).resolve() if cwd else None
        found = await asyncio.to_thread(list_sessions, paths.sessions_folder(), tree)
        infos = [
            SessionInfo(
                session_id=info.id,
                cwd=str(info.work_tree),
                title=info.title or None,
                updated_at=info.created_at.isoformat(),
            )
            for info in found[:_MAX_LISTED]
        ]
        return ListSessionsResponse(sessions=infos)

    async def set_session_mode(self, session_id: str, mode_id: str, **_: Any) -> SetSessionModeResponse:
        """Change how much is done without asking."""
        if mode_id not in set(map(str, _MODES)):
            details = f"there is no mode {mode_id!r} to change to; choose of {', '.join(_MODES)}"
            raise RequestError.invalid_params({"details": details})
        self._desk(session_id).session.permissions.mode = PermissionMode(mode_id)
        return SetSessionModeResponse()

    @_told
    async def prompt(self, session_id: str, prompt: list[Any], **_: Any) -> PromptResponse:
        """Say something and follow what comes of it to its end."""
        desk = self._desk(session_id)
        if desk.working.locked():
            raise SessionBusy("a prompt is being worked on in this session; cancel it, or wait for its end")
        text = prompt_text(prompt, desk.session.setup.work_tree)
        async with desk.working:
            if (focus := compact_focus(text)) is not None:
                return PromptResponse(stop_reason=await self._compact(desk, focus))
            return PromptResponse(stop_reason=await self._follow(desk, text))

    async def cancel(self, session_id: str, **_: Any) -> None:
        """Stop what runs in a session."""
        if (desk := self._desks.get(session_id)) is not None:
            desk.stop()

    async def close(self) -> None:
        """Close all sessions, then the models; what one of them fails by is raised when the others are closed."""
        desks, self._desks = self._desks, {}
        async with AsyncExitStack() as stack:
            stack.callback(self._models.close)
            for desk in desks.values():
                stack.push_async_callback(desk.close)

    async def _open(self, work_tree: Path, session_id: str | None, mcp_servers: Sequence[Any] | None) -> Desk:
        named = servers_of(mcp_servers or ())
        for fault in named.faults:
            self._note(fault)
        wish = Wish(work_tree, self._said, session_id, trusts=self._trusts, servers=named.servers)
        desk = await open_desk(self._models, wish)
        self._desks[desk.session.id] = desk
        return desk

    def _desk(self, session_id: str) -> Desk:
        desk = self._desks.get(session_id)
        if desk is None:
            raise RequestError.invalid_params({"details": f"no session {session_id!r} is open; load it first"})
        return desk

    async def _follow(self, desk: Desk, text: str) -> StopReason:
        session = desk.session
        candidates = candidates_for(session, desk.settings, desk.plan, desk.box)
        desk.cancel, desk.was_cancelled = candidates.cancel, False
        status = Status.DONE
        try:
            async with aclosing(candidates.follow(session.send(text))) as found:
                async for event in found:
                    if isinstance(event, events.RunStarted) and desk.was_cancelled:
                        candidates.cancel()  # asked for before there was something to cancel
                    for update in desk.telling.tell(event):
                        await self._update(session.id, update)
                    if isinstance(event, events.ApprovalAsked):
                        await self._ask(desk, event)
                    if isinstance(event, events.RunEnded):
                        status = event.report.status
        finally:
            desk.cancel = None
        return _STOPS.get(status, "end_turn")

    async def _compact(self, desk: Desk, focus: str) -> StopReason:
        """Have the conversation go on from a summary of it."""
        session = desk.session
        desk.cancel, desk.was_cancelled = session.cancel, False
        try:
            async with aclosing(session.compact(focus)) as told:
                async for event in told:
                    for update in desk.telling.tell(event):
                        await self._update(session.id, update)
                    if desk.was_cancelled:
                        return "cancelled"
        finally:
            desk.cancel = None
        return "end_turn"

    def _tell_soon(self, session_id: str) -> None:
        """What may be written behind a `/`: the editor hears of a session first, and of what it offers then."""
        telling = asyncio.get_running_loop().create_task(self._update(session_id, told_commands()))
        self._tellings.add(telling)
        telling.add_done_callback(self._tellings.discard)

    async def _update(self, session_id: str, update: Any) -> None:
        assert self._editor is not None
        await self._editor.session_update(session_id=session_id, update=update)

    async def _ask(self, desk: Desk, event: events.ApprovalAsked) -> None:
        """Put questions before the person, one after another; a run that is cancelled meanwhile needs no answer."""
        desk.asking = asyncio.create_task(self._answers(desk, event))
        try:
            await asyncio.wait({desk.asking})
            answers = () if desk.asking.cancelled() else desk.asking.result()
        finally:
            desk.asking = None
        with suppress(SessionBusy):  # it was cancelled
            desk.session.answer(*answers)

    async def _answers(self, desk: Desk, event: events.ApprovalAsked) -> tuple[Approval, ...]:
        judge = judge_of(desk.session.permissions)
        found: list[Approval] = []
        allowed: tuple[Rule, ...] = ()
        for request in event.requests:
            if allowed and judge(request.call, allowed).verdict is Verdict.ALLOW:
                found.append(Approval(call_id=request.call.id, allowed=True))
                continue
            answer = await self._answer(desk, request)
            allowed += answer.always
            found.append(answer)
        return tuple(found)

    async def _answer(self, desk: Desk, request: events.ApprovalRequest) -> Approval:
        assert self._editor is not None
        session, call = desk.session, request.call
        rules = session.permissions.judge(call).suggested_rules
        change = await asyncio.to_thread(would_change, call, session.tools)
        content = [diff_content(change, session.setup.work_tree)] if change is not None else []
        question = ToolCallUpdate(
            tool_call_id=call.id,
            **desk.telling.described(call),
            status="pending",
            content=[*content, text_content(told_question(request, told_box(session)))],
        )
        answer = await self._editor.request_permission(
            session_id=session.id, tool_call=question, options=options_for(rules)
        )
        return approval_of(call, answer, rules)


def _folder(cwd: str) -> Path:
    path = Path(cwd)
    if not path.is_absolute() or not path.is_dir():
        raise RequestError.invalid_params({"details": f"{cwd} is not a folder; give its absolute path"})
    return path.resolve()


def _modes(desk: Desk) -> SessionModeState:
    current = desk.session.permissions.mode
    known = {**_MODES, **({} if current in _MODES else {current: (str(current), "As set on the command line.")})}
    return SessionModeState(
        current_mode_id=str(current),
        available_modes=[
            SessionMode(id=str(mode), name=name, description=description) for mode, (name, description) in known.items()
        ],
    )
