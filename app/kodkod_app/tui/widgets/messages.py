"""What was said by the person and by the program; what the model says is in `answer`."""

from __future__ import annotations

from textual.app import ComposeResult, RenderResult
from textual.content import Content

from kodkod_app.tui.store import Checks, Ending, Note, NoteKind, Said, Welcome
from kodkod_app.tui.widgets.entry import EntryView, PlainText


class SaidView(EntryView):
    """What the person said, behind a bar."""

    DEFAULT_CSS = """
    SaidView {
        border-left: outer $primary;
        background: $surface;
        padding: 0 1;
        margin: 0 1 1 1;
    }
    """

    def render(self) -> RenderResult:
        """The text as it stands."""
        assert isinstance(self.entry, Said)
        return Content(self.entry.text)


_NOTE_MARKS = {NoteKind.INFO: "·", NoteKind.WARNING: "!", NoteKind.FAULT: "✗"}


class NoteView(EntryView):
    """A fact for the person."""

    DEFAULT_CSS = """
    NoteView {
        color: $muted;
        &.warning { color: $warning; }
        &.fault { color: $error; }
    }
    """

    def __init__(self, entry: Note) -> None:
        super().__init__(entry)
        self.add_class(entry.kind)

    def render(self) -> RenderResult:
        """A mark and a line."""
        assert isinstance(self.entry, Note)
        return Content(f"{_NOTE_MARKS[self.entry.kind]} {self.entry.text}")


class ChecksView(EntryView):
    """The agent's own test run."""

    DEFAULT_CSS = """
    ChecksView {
        color: $error;
        &.passed { color: $success; }
    }
    """

    def __init__(self, entry: Checks) -> None:
        super().__init__(entry)
        self.set_class(entry.passed, "passed")

    def render(self) -> RenderResult:
        """Counts; what failed is in the conversation."""
        checks = self.entry
        assert isinstance(checks, Checks)
        when = "tests before" if checks.is_before else "tests"
        return Content(f"{'✓' if checks.passed else '✗'} {when}: {checks.told}")


_STATUS_MARKS = {"done": ("✓", "$success"), "interrupted": ("■", "$warning"), "fault": ("✗", "$error")}


class EndingView(EntryView):
    """How a run ended."""

    DEFAULT_CSS = """
    EndingView {
        layout: vertical;
        border-top: solid $rule;
        margin: 0 1 1 1;
        padding: 0 0 0 1;
        & > .files { margin: 0 0 0 2; }
        & > .cost { color: $muted; margin: 0 0 0 2; }
    }
    """

    def compose(self) -> ComposeResult:
        """Status, files, tests, cost."""
        ending = self.entry
        assert isinstance(ending, Ending)
        mark, color = _STATUS_MARKS.get(ending.status, ("!", "$warning"))
        # Of a run that is done the reason tells how many pass.
        tests = f" · {ending.tests}" if ending.tests and ending.status != "done" else ""
        head = Content.assemble((f"{mark} {ending.status}", f"bold {color}"), f"  {ending.reason}{tests}")
        yield PlainText(head)
        if ending.files:
            yield PlainText(_stat(ending.files), classes="files")
        yield PlainText(ending.cost, classes="cost")

    async def look_again(self) -> None:
        """It is known by now what changed and what it cost."""
        await self.recompose()


def _stat(files: tuple[tuple[str, int, int], ...]) -> Content:
    lines = [
        Content.assemble(path, "  ", (f"+{added}", "$success"), " ", (f"-{removed}", "$error"))
        for path, added, removed in files
    ]
    return Content("\n").join(lines)


class WelcomeView(EntryView):
    """The head of the transcript."""

    DEFAULT_CSS = """
    WelcomeView {
        margin: 1 0 1 0;
    }
    """

    def render(self) -> RenderResult:
        """Who, where, and the first keys."""
        welcome = self.entry
        assert isinstance(welcome, Welcome)
        head = Content.assemble(("kodkod ", "bold $primary"), (welcome.version, "$muted"))
        keys = Content.styled("/ commands   @ files   ! shell   shift+tab mode   F1 help", "$muted")
        lines = [head, Content.styled(welcome.title or welcome.folder, "$muted"), keys]
        return Content("\n").join(
            [Content.styled(cat, "$primary") + line for cat, line in zip(_CAT, lines, strict=True)]
        )


_CAT = (r" /\_/\    ", "( o.o )   ", r" > ^ <    ")
