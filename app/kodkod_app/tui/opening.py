"""The screens over the chat: what each is given, and what comes of its result. They are imported when opened."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textual import events
from textual.actions import ActionParseResult
from textual.dom import DOMNode

from kodkod_app import paths
from kodkod_app.conditions import told_condition
from kodkod_app.tui import updates as u
from kodkod_app.tui.inert import inert_line
from kodkod_app.tui.themes import full_name
from kodkod_app.tui.updating import Updating

if TYPE_CHECKING:
    from kodkod_agent.approval import Approval
    from kodkod_agent.rules import Rule
    from kodkod_app.machine_facts import Fact
    from kodkod_app.report_text import FileStat
    from kodkod_app.settings_fields import SettingField
    from kodkod_app.tui.screens.approval import ApprovalScreen, Sheet
    from kodkod_app.tui.screens.branches import Jump
    from kodkod_app.tui.screens.sessions import SessionChoice
    from kodkod_app.wish import Wish


_MAX_STEP_DIGITS = 9
_PAUSE_S = 0.7
"""Nobody who writes waits so long between two letters, but for to think."""


class Opening(Updating):
    """The part of the app that opens screens."""

    wish: Wish
    _approval: ApprovalScreen | None = None
    _asking: u.Asked | None = None
    """What is to be answered before the run goes on."""
    _typed_s = float("-inf")
    """When the last letter was typed that was no answer to a question."""

    def is_free(self) -> bool:
        """Whether a session is open in which nothing runs; the person is told when not."""
        if self.is_busy or not self.is_open:
            self.notify(self.why_busy if self.is_busy else self.without_session)
            return False
        return True

    @property
    def _is_covered(self) -> bool:
        """A screen is open already: the keys of the chat open no second."""
        return len(self.screen_stack) > 1

    async def run_action(
        self,
        action: str | ActionParseResult,
        default_namespace: DOMNode | None = None,
        namespaces: Mapping[str, DOMNode] | None = None,
    ) -> bool:
        """As every app. What is foreseen to fail, for what lies on the disk is not as it was, ends the action alone."""
        try:
            return await super().run_action(action, default_namespace, namespaces)
        except Exception as fault:
            told = told_condition(fault) or (str(fault) if hasattr(fault, "exit_code") else None)
            if told is None:
                raise
            self.notify(inert_line(told, 300), severity="error", markup=False)
            return True

    # Approval

    async def on_event(self, event: events.Event) -> None:
        """Know when something is written."""
        if isinstance(event, events.Key) and event.is_printable and self._approval is None:
            self._typed_s = time.monotonic()
        await super().on_event(event)

    def open_approval(self, asked: u.Asked) -> None:
        """Ask the person about calls, below what the model said of them: under a question nothing is laid out."""
        self._asking = asked
        self.call_after_refresh(self._ask_in_a_pause, asked)

    def _ask_in_a_pause(self, asked: u.Asked) -> None:
        """Once they pause: the next letter of what they write would be their answer."""
        if asked is not self._asking:
            return  # its run is over
        left_s = self._typed_s + _PAUSE_S - time.monotonic()
        if left_s > 0:
            self.set_timer(left_s, lambda: self._ask_in_a_pause(asked))
        else:
            self._ask(asked)

    def _ask(self, asked: u.Asked) -> None:
        """Leaving without a word interrupts the run."""
        from kodkod_app.tui.screens.approval import ApprovalScreen
        from kodkod_app.tui.screens.judging import judge_of

        def answer(approvals: tuple[Approval, ...] | None) -> None:
            self._leave_to_be_seen(self.size.height)
            if approvals is None:
                # A question that the end of its run took away is no word of the person's: the next run may be on its
                # way already.
                if self._approval is screen:
                    self.workbench.interrupt()
                return
            self._approval = None
            self.was_answered(asked)
            self.workbench.answer(approvals)

        session = self.workbench.session
        judge = judge_of(session.permissions) if session is not None else None
        screen = ApprovalScreen(asked.requests, asked.facts, judge=judge, save_rules=self._save_rules)
        self._approval = screen
        self.push_screen(screen, answer)

    def on_sheet_laid(self, event: Sheet.Laid) -> None:
        """What was said last is what the question is about: it stays in sight above it."""
        if self.screen is self._approval:
            self._leave_to_be_seen(event.top)

    def _leave_to_be_seen(self, lines: int) -> None:
        """Have the conversation end there, where it would go on below."""
        end = min(one.region.y for one in (self.plan_list, self.queue, self.prompt) if one.display)
        self.transcript.styles.margin = (0, 0, max(0, end - lines), 0)
        # A screen that is under another lays itself out when the window changes, and only then.
        chat = self.screen_stack[0]
        chat.post_message(events.Resize(self.size, self.size))
        chat.call_later(self.screen.refresh)

    def close_approval(self) -> None:
        """The run is over: nothing waits for an answer any more."""
        self._asking = None
        if self._approval is not None and self.screen is self._approval:
            self._approval.dismiss(None)
        self._approval = None

    def _save_rules(self, rules: tuple[Rule, ...]) -> None:
        from kodkod_app.settings import SettingsFault
        from kodkod_app.settings_file import save_allowed

        try:
            save_allowed(paths.user_settings(), rules)
        except SettingsFault as fault:
            self.notify(inert_line(str(fault), 300), severity="error", markup=False)
        else:
            self.notify(inert_line(f"saved in {paths.user_settings()}", 200), markup=False)

    # Sessions

    def action_sessions(self) -> None:
        """Earlier sessions of this folder."""
        if self._is_covered:
            return
        from kodkod_app.session_shelf import SessionShelf
        from kodkod_app.tui.screens.sessions import SessionsScreen

        shelf = SessionShelf(paths.sessions_folder())
        self.push_screen(SessionsScreen(shelf, self.wish.work_tree, current=self.session_id), self._take_choice)

    def _take_choice(self, choice: SessionChoice | None) -> None:
        if choice is None:
            return
        if choice.branches:
            self._open_branches(choice.session_id)
        elif choice.work_tree != self.wish.work_tree:
            told = f"kodkod -C {choice.work_tree} -r {choice.session_id}"
            self.notify(inert_line(f"that session is of another folder; open it with  {told}", 300), markup=False)
        elif self.is_free() and (choice.fork or choice.session_id != self.session_id):
            if choice.fork:
                self.fork(choice.session_id, None)
            else:
                self._resume(choice.session_id)

    def fork(self, session_id: str, step: int | None) -> None:
        """Leave the session for a new one that begins at that step, or where that one stands."""
        self.begin_work("a new session is made" + (f" at step {step}" if step is not None else ""))
        self.workbench.fork(session_id, step)

    def _resume(self, session_id: str) -> None:
        self.begin_work("that session is opened")
        self.workbench.open(session_id)

    def action_branches(self) -> None:
        """The tree of steps."""
        if self.is_free() and not self._is_covered:
            self._open_branches(self.session_id)

    def _open_branches(self, session_id: str) -> None:
        from kodkod_app.session_branches import read_branches
        from kodkod_app.tui.screens.branches import BranchesScreen

        def load() -> Any:
            return read_branches(paths.sessions_folder(), session_id)

        screen = BranchesScreen(load, self.session_id, changed_files=self._changed_files)
        self.push_screen(screen, self._jump)

    def _changed_files(self, session_id: str, step: int) -> Sequence[FileStat]:
        """What putting the files back would change. Blocking; nothing runs meanwhile, for it takes a snapshot."""
        from kodkod_agent.session_folder import SessionFolder
        from kodkod_app.report_text import diff_stat
        from kodkod_app.session_shelf import patch_back

        folder = SessionFolder.find(paths.sessions_folder(), session_id)
        return diff_stat(patch_back(folder, step, self.wish.work_tree))

    def _jump(self, jump: Jump | None) -> None:
        from kodkod_app.tui.screens.branches import JumpKind

        if jump is None or not self.is_free():
            return
        match jump.kind:
            case JumpKind.REWIND:
                self._rewind_to(jump.step)
            case JumpKind.FORK:
                self.fork(jump.session_id, jump.step)
            case JumpKind.RESUME:
                self._resume(jump.session_id)

    def is_step(self, text: str) -> bool:
        """Whether it is the number of a step, or nothing; the person is told when not."""
        if not text or (text.isdecimal() and len(text) <= _MAX_STEP_DIGITS):
            return True
        self.notify(f"{inert_line(text, 40)} is no step; /branches shows them", severity="warning", markup=False)
        return False

    def action_rewind(self, step: str = "") -> None:
        """Back to a step; without its number a screen shows them."""
        if not self.is_free() or self._is_covered or not self.is_step(step):
            return
        if step:
            self._rewind_to(int(step))
            return
        from kodkod_app.session_branches import read_steps
        from kodkod_app.tui.screens.rewind import RewindScreen

        steps = read_steps(paths.sessions_folder(), self.session_id)
        screen = RewindScreen(steps, changed_files=lambda to: self._changed_files(self.session_id, to))
        self.push_screen(screen, self._rewind_to)

    def _rewind_to(self, step: int | None) -> None:
        if step is not None and self.is_free():
            self.begin_work()
            self.workbench.rewind(step)

    def action_export(self) -> None:
        """This session as a file."""
        if not self.is_free() or self._is_covered:
            return
        from kodkod_agent.session_folder import SessionFolder
        from kodkod_app.session_export import write_export
        from kodkod_app.tui.screens.export import ExportScreen

        root, session_id = paths.sessions_folder(), self.session_id

        def write(form: str, path: Path) -> Sequence[Path]:
            return write_export(SessionFolder.find(root, session_id), form, path)

        self.push_screen(ExportScreen(session_id, self.wish.work_tree, write), self._tell_written)

    def _tell_written(self, written: tuple[Path, ...] | None) -> None:
        for path in written or ():
            self.notify(inert_line(f"wrote {path}", 300), markup=False)

    # The machine and the settings

    def action_doctor(self, welcome: str = "") -> None:
        """What this machine has and misses."""
        if self._is_covered:
            return
        from kodkod_app.tui.screens.doctor import DoctorScreen

        self.push_screen(DoctorScreen(self._look_around, welcome=welcome))

    async def _look_around(self) -> AsyncIterator[Fact]:
        from kodkod_app.bootstrap import RECORDING, SERVED, bundled_model
        from kodkod_app.machine_facts import look_around

        settings = self.workbench.settings
        name = (settings.model if settings is not None else None) or self.wish.said.get("model")
        is_elsewhere = name is not None and name.startswith((RECORDING, SERVED))
        model = None if is_elsewhere else paths.expanded(name) if name else bundled_model()
        async for fact in look_around(self.wish.work_tree, model):
            yield fact

    def action_settings(self) -> None:
        """Everything that can be set."""
        if self._is_covered:
            return
        from kodkod_app.settings_file import save_value
        from kodkod_app.tui.screens.settings import SettingsScreen

        self._setting_fields()  # a file that cannot be read is told here, where there is a line for it
        path = paths.user_settings()
        screen = SettingsScreen(self._setting_fields, lambda key, value: save_value(path, key, value), str(path))
        self.push_screen(screen, self._take_settings)

    def _setting_fields(self) -> list[SettingField]:
        from kodkod_app.settings import merge_sources
        from kodkod_app.settings_fields import setting_fields
        from kodkod_app.trust import session_layers

        wish = self.wish
        layers = session_layers(wish.work_tree, trusted=wish.trusts, environment=os.environ, flags=wish.said)
        return setting_fields(layers, merge_sources(layers, trusted=True))

    def _take_settings(self, changed: tuple[str, ...] | None) -> None:
        if changed and "tui.theme" in changed:
            theme = next(field.value for field in self._setting_fields() if field.key == "tui.theme")
            self.theme = full_name(theme)
        if changed and changed != ("tui.theme",):
            self.notify("they count from the next start on")
