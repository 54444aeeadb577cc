"""What commands and keys do beyond the chat: modes, looks, sessions. `opening` and `lists` open the screens."""

from __future__ import annotations

import re
from functools import cached_property

from kodkod_app.tui import store as s
from kodkod_app.tui.lists import Lists
from kodkod_app.tui.path_search import PathSearch
from kodkod_app.tui.themes import NAMES, full_name

_MODES = ("default", "acceptEdits", "plan", "auto")
"""Those that Shift+Tab goes through; any other is set by /mode, and joins them while it is set."""
_EVERY_MODE = (*_MODES, "dontAsk", "bypassPermissions")
_AT_PATH = re.compile(r"(?:^|(?<=\s))@(\S+)")


class Actions(Lists):
    """The part of the app that does what is asked of it."""

    @cached_property
    def path_search(self) -> PathSearch:
        """Paths for `@`."""
        return PathSearch(self.wish.work_tree)

    def plain_paths(self, text: str) -> str:
        """`@path` as the path alone, where there is such a file: the sign is for the prompt, not for the model."""
        return _AT_PATH.sub(lambda found: found[1] if self._is_there(found[1]) else found[0], text)

    def _is_there(self, path: str) -> bool:
        try:
            return (self.wish.work_tree / path).exists()
        except (OSError, ValueError):
            return False

    # Modes and looks

    def action_cycle_mode(self) -> None:
        """The next permission mode."""
        now = self._scene["mode"]
        modes = _MODES if now in _MODES else (*_MODES, now)
        self.action_set_mode(modes[(modes.index(now) + 1) % len(modes)])

    def action_set_mode(self, mode: str = "") -> None:
        """A permission mode by its name; without one the next."""
        if not mode:
            self.action_cycle_mode()
        elif mode in _EVERY_MODE:
            self.workbench.set_mode(mode)
        else:
            self.notify(f"the modes are {', '.join(_EVERY_MODE)}", severity="warning")

    def action_set_theme(self, name: str = "") -> None:
        """A theme by its name; without one the next."""
        if not name:
            now = self.theme.removeprefix("kodkod-")
            name = NAMES[(NAMES.index(now) + 1) % len(NAMES)] if now in NAMES else NAMES[0]
        if name in NAMES:
            self.theme = full_name(name)
        else:
            self.notify(f"the themes are {', '.join(NAMES)}", severity="warning")

    # Sessions

    def action_new_session(self) -> None:
        """Begin a session."""
        if self.is_free():
            self.begin_work("a new session is begun")
            self.workbench.new()

    def action_proceed(self) -> None:
        """Go on with a run that was cut short."""
        if self.is_free():
            self.begin_work()
            self.workbench.proceed()

    def action_fork(self, step: str = "") -> None:
        """A new session from a step of this one; without its number from the last."""
        if not self.is_free() or not self.is_step(step):
            return
        session = self.workbench.session
        steps = session.steps if session is not None else []
        if not steps:
            self.notify("there is no step to fork from yet")
            return
        self.fork(self.session_id, int(step) if step else None)

    # The conversation

    def action_compact(self, focus: str = "") -> None:
        """Have the conversation shortened to a summary of it, with what is to be kept above all."""
        if self.is_free():
            self.begin_work()
            self.workbench.compact(focus)

    def action_copy_answer(self) -> None:
        """The last answer to the clipboard."""
        answers = [entry for entry in self.store.entries if isinstance(entry, s.Answer) and entry.text]
        if answers:
            self.copy_to_clipboard(answers[-1].text)
        self.notify("copied" if answers else "nothing was answered yet")

    def action_unfold_all(self) -> None:
        """Unfold every call; when all that are mounted are unfolded, fold them."""
        from kodkod_app.tui.widgets.tool_call import Block

        blocks = list(self.transcript.query(Block))
        is_unfolded = any(block.has_class("folded") for block in blocks)
        for entry in self.store.entries:
            if isinstance(entry, s.Call | s.ShellRun):
                entry.is_unfolded = is_unfolded
        for block in blocks:
            block.set_unfolded(is_unfolded)
