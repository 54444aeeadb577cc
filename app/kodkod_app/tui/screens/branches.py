"""The tree of a session's steps and of the sessions that left it; from here one jumps to any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widgets import Footer, Static, Tree
from textual.widgets.tree import TreeNode

from kodkod_agent.errors import AgentError
from kodkod_app.render import counted
from kodkod_app.report_text import FileStat
from kodkod_app.session_branches import START, Branch, Step
from kodkod_app.tui.inert import inert_line
from kodkod_app.tui.screens.once import Once
from kodkod_app.tui.screens.parts import Heading, bind_enter, files_content, put_late

_MAX_LABEL_CHARS = 100


class JumpKind(StrEnum):
    """How one gets to a step."""

    REWIND = "rewind"
    """The session itself goes back; what came after is dropped."""
    FORK = "fork"
    """A new session begins there."""
    RESUME = "resume"
    """Another session is opened where it stands."""


@dataclass(frozen=True, slots=True)
class Jump:
    """Where a person wants to be."""

    session_id: str
    step: int
    kind: JumpKind


ChangedFiles = Callable[[str, int], Sequence[FileStat]]
"""What putting the files back to a session's step would change. Called from a thread."""


@dataclass(frozen=True, slots=True)
class _Place:
    branch: Branch
    step: int
    """Where a jump to this line leads."""
    shown: Step | None = None
    """The turn to tell of."""


class BranchesScreen(Once[Jump | None]):
    """See the module. Dismisses a jump, or None."""

    DEFAULT_CSS = """
    BranchesScreen Horizontal { height: 1fr; }
    BranchesScreen Tree {
        width: 3fr; padding: 0 1; background: transparent; overflow-x: hidden; scrollbar-size-vertical: 1;
    }
    BranchesScreen #detail-pane { width: 2fr; padding: 0 2; scrollbar-size-vertical: 1; border-left: solid $rule; }
    BranchesScreen.-narrow Horizontal { layout: vertical; }
    BranchesScreen.-narrow Tree { width: 1fr; height: 3fr; }
    BranchesScreen.-narrow #detail-pane { width: 1fr; height: 2fr; border-left: none; border-top: solid $rule; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "rewind", "Rewind"),
        Binding("f", "fork", "Fork"),
        Binding("space", "fold", "Fold"),
        Binding("escape,q", "close", "Close", key_display="esc"),
    ]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012 - no class variable to Textual

    def __init__(
        self, load: Callable[[], Branch], current: str, *, changed_files: ChangedFiles = lambda _id, _step: ()
    ) -> None:
        """Show the tree.

        Args:
            load: reads it; called from a thread.
            current: id of the session that is open.
            changed_files: what a jump would change.
        """
        super().__init__()
        self._load = load
        self._current = current
        self._changed_files = changed_files

    def compose(self) -> ComposeResult:
        """The tree, and what is known of the step under the cursor."""
        yield Heading("Branches", "looking", id="heading")
        with Horizontal():
            tree: Tree[_Place] = Tree("")
            tree.show_root = False
            tree.guide_depth = 2
            tree.auto_expand = False
            bind_enter(tree, "screen.jump", "Go there")
            yield tree
            with VerticalScroll(id="detail-pane", can_focus=False):
                yield Static(id="detail")
                yield Static(id="files")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Read the steps behind the screen."""
        self._read()

    @property
    def _tree(self) -> Tree[_Place]:
        return self.query_one(Tree)

    @work(exclusive=True, group="read")
    async def _read(self) -> None:
        try:
            top = await asyncio.to_thread(self._load)
        except (AgentError, OSError) as fault:
            for heading in self.query(Heading):
                heading.say(str(fault))
            return
        if self.query(Tree):  # not left meanwhile
            self._grow(top)

    def _grow(self, top: Branch) -> None:
        branches = list(top.walk())
        num_steps = sum(len(branch.steps) for branch in branches)
        tree = self._tree
        self._add(tree.root, top)
        tree.root.expand_all()
        here = next((node for node in _nodes(tree.root) if self._is_here(node.data)), None)
        # At once, and not with the next frame: a key that came before it would be taken back. Lines have their numbers
        # once they were counted.
        assert tree.last_line >= 0
        tree.move_cursor(here or tree.root.children[0])
        self.call_after_refresh(self._show_cursor)
        self.query_one("#heading", Heading).say(f"{counted(len(branches), 'session')}, {counted(num_steps, 'step')}")

    def _show_cursor(self) -> None:
        if (node := self._tree.cursor_node) is not None:
            self._tree.scroll_to_node(node, animate=False)

    def _is_here(self, place: _Place | None) -> bool:
        """Whether this is where the open session stands."""
        return place is not None and place.branch.session_id == self._current and place.step == place.branch.last_step

    def _add(self, parent: TreeNode[_Place], branch: Branch) -> None:
        """A session's line, its steps, and at each step the sessions that left it there."""
        start = branch.forked_at if branch.forked_at is not None else START
        own = parent.add(self._session_label(branch), _Place(branch, start))
        self._add_forks(own, branch, until=start)
        for step in branch.steps:
            for said in step.said:
                own.add_leaf(_label("› ", said, "bold"), _Place(branch, step.number - 1))
            node = own.add(self._step_label(branch, step), _Place(branch, step.number, step))
            node.allow_expand = any(fork.forked_at == step.number for fork in branch.forks)
            self._add_forks(node, branch, at=step.number)

    def _add_forks(self, node: TreeNode[_Place], branch: Branch, *, at: int = -1, until: int = -1) -> None:
        for fork in branch.forks:
            if fork.forked_at == at or (fork.forked_at or START) <= until:
                self._add(node, fork)

    def _session_label(self, branch: Branch) -> Text:
        stands_here = branch.session_id == self._current and not branch.steps
        sign = "● " if stands_here else "↳ " if branch.forked_at is not None else "◆ "
        label = _label(sign, branch.title or branch.session_id, "bold")
        label.append(f"  {inert_line(branch.status, 20)}", "dim")
        return label

    def _step_label(self, branch: Branch, step: Step) -> Text:
        is_here = branch.session_id == self._current and step.number == branch.last_step
        label = Text(f"{'●' if is_here else '○'} {step.number:>2}  ", "bold" if is_here else "")
        words = "; ".join(step.calls) or step.text or "nothing"
        label.append(inert_line(words, _MAX_LABEL_CHARS), "" if step.can_return else "dim")
        return label

    @on(Tree.NodeHighlighted)
    def _tell(self, event: Tree.NodeHighlighted[_Place]) -> None:
        event.stop()
        place = event.node.data
        if place is None:
            return
        self.query_one("#detail", Static).update(self._detail(place))
        self.query_one("#files", Static).update(Content.styled("…", "dim"))
        self._look(place)
        self.refresh_bindings()

    @work(exclusive=True, group="look")
    async def _look(self, place: _Place) -> None:
        try:
            files = await asyncio.to_thread(self._changed_files, place.branch.session_id, place.step)
            told = files_content(files)
        except (AgentError, OSError) as fault:
            told = Content.styled(inert_line(str(fault), 300), "$text-error")
        put_late(self, "#files", told)

    def _detail(self, place: _Place) -> Content:
        step = place.shown
        jump = self._jump(place)
        lines = [Content.styled(f"enter  {_told(jump)}" if jump else "the session stands here", "$text-accent")]
        if step is not None:
            lines += [Content(), Content(inert_line(step.text)) if step.text else Content.styled("no words", "dim")]
            lines += [Content.assemble("· ", inert_line(call, 200)) for call in step.calls]
            lines.append(Content.styled(f"{step.new_tokens:,} new tokens, {step.reused_tokens:,} reused", "dim"))
        return Content("\n").join([*lines, Content()])

    # What the person does

    def _jump(self, place: _Place) -> Jump | None:
        """What enter does here: nothing where the session stands already."""
        branch = place.branch
        if self._is_here(place):
            return None
        if branch.session_id == self._current:
            kind = JumpKind.REWIND
        else:
            kind = JumpKind.RESUME if place.step == branch.last_step else JumpKind.FORK
        return Jump(branch.session_id, place.step, kind)

    @property
    def _place(self) -> _Place | None:
        node = self._tree.cursor_node
        return node.data if node is not None else None

    @on(Tree.NodeSelected)
    def action_jump(self) -> None:
        """To the step under the cursor."""
        if (place := self._place) is not None and (jump := self._jump(place)) is not None:
            self.dismiss(jump)

    def action_rewind(self) -> None:
        """This session goes back."""
        if (place := self._place) is not None:
            self.dismiss(Jump(place.branch.session_id, place.step, JumpKind.REWIND))

    def action_fork(self) -> None:
        """A new session from there."""
        if (place := self._place) is not None:
            self.dismiss(Jump(place.branch.session_id, place.step, JumpKind.FORK))

    def action_fold(self) -> None:
        """Fold or unfold."""
        node = self._tree.cursor_node
        if node is not None and node.allow_expand:
            node.toggle()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only the open session can be rewound, and not to where it stands."""
        del parameters
        if action not in ("rewind", "jump") or not self.is_mounted:
            return True
        place = self._place
        if place is None or self._is_here(place):
            return False
        return action == "jump" or place.branch.session_id == self._current

    def action_close(self) -> None:
        """Stay."""
        self.dismiss(None)


def _label(sign: str, text: str, style: str) -> Text:
    return Text(f"{sign}{inert_line(text, _MAX_LABEL_CHARS)}", style)


def _nodes(node: TreeNode[_Place]) -> list[TreeNode[_Place]]:
    found = [node]
    for child in node.children:
        found += _nodes(child)
    return found


def _told(jump: Jump) -> str:
    match jump.kind:
        case JumpKind.REWIND:
            return f"takes this session back to step {jump.step}"
        case JumpKind.FORK:
            return f"begins a new session at step {jump.step}"
        case JumpKind.RESUME:
            return "opens that session"
