"""What was said: by the person, by the model, by the program."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.content import Content
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownStream

from kodkod_app.tui.store import Answer, Checks, Ending, Note, NoteKind, Said, Welcome
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

    def compose(self) -> ComposeResult:
        """The text as it stands."""
        assert isinstance(self.entry, Said)
        yield PlainText(self.entry.text)


class AnswerView(EntryView):
    """The model's prose as Markdown, growing while it is written."""

    DEFAULT_CSS = """
    AnswerView {
        & > .reasoning { color: $muted; text-style: italic; margin: 0 0 1 0; }
        & > Markdown { padding: 0; margin: 0; background: transparent; }
    }
    """

    def __init__(self, entry: Answer) -> None:
        super().__init__(entry)
        self.answer = entry
        self._shown_chars = 0
        self._stream: MarkdownStream | None = None

    def compose(self) -> ComposeResult:
        """Thinking, then prose."""
        yield PlainText(self._reasoning(), classes="reasoning").set_class(not self.answer.reasoning, "hidden")
        self._shown_chars = len(self.answer.text)
        yield Markdown(self.answer.text, open_links=False)

    def _reasoning(self) -> str:
        return self.answer.reasoning.strip()

    async def look_again(self) -> None:
        """Show what came since."""
        if self.answer.reasoning:
            shown = self.query_one(".reasoning", PlainText)
            shown.show(self._reasoning())
            shown.remove_class("hidden")
        new = self.answer.text[self._shown_chars :]
        self._shown_chars += len(new)
        if new:
            self._stream = self._stream or Markdown.get_stream(self.query_one(Markdown))
            await self._stream.write(new)
        if not self.answer.is_open and self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.stop()

    async def on_unmount(self) -> None:
        """End the stream with the widget."""
        if self._stream is not None:
            await self._stream.stop()

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        """Where a link leads is told; nothing is opened."""
        self.notify(event.href, title="Link", markup=False)


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

    def compose(self) -> ComposeResult:
        """A mark and a line."""
        assert isinstance(self.entry, Note)
        self.add_class(self.entry.kind)
        yield PlainText(f"{_NOTE_MARKS[self.entry.kind]} {self.entry.text}")


class ChecksView(EntryView):
    """The agent's own test run."""

    DEFAULT_CSS = """
    ChecksView {
        & > .passed { color: $success; }
        & > .failed { color: $error; }
    }
    """

    def compose(self) -> ComposeResult:
        """Counts; what failed is in the conversation."""
        checks = self.entry
        assert isinstance(checks, Checks)
        when = "tests before" if checks.is_before else "tests"
        mark = "✓" if checks.passed else "✗"
        yield PlainText(f"{mark} {when}: {checks.told}", classes="passed" if checks.passed else "failed")


_STATUS_MARKS = {"done": ("✓", "$success"), "interrupted": ("■", "$warning"), "fault": ("✗", "$error")}


class EndingView(EntryView):
    """How a run ended."""

    DEFAULT_CSS = """
    EndingView {
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
        tests = f" · {ending.tests}" if ending.tests else ""
        head = Content.assemble((f"{mark} {ending.status}", f"bold {color}"), f"  {ending.reason}{tests}")
        yield PlainText(head)
        if ending.files:
            yield PlainText(_stat(ending.files), classes="files")
        yield PlainText(ending.cost, classes="cost")


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

    def compose(self) -> ComposeResult:
        """Who, where, and the first keys."""
        welcome = self.entry
        assert isinstance(welcome, Welcome)
        head = Content.assemble(("kodkod ", "bold $primary"), (welcome.version, "$muted"))
        keys = Content.styled("/ commands   @ files   ! shell   shift+tab mode   F1 help", "$muted")
        lines = [head, Content.styled(welcome.title or welcome.folder, "$muted"), keys]
        yield PlainText(
            Content("\n").join([Content.styled(cat, "$primary") + line for cat, line in zip(_CAT, lines, strict=True)])
        )


_CAT = (r" /\_/\    ", "( o.o )   ", r" > ^ <    ")
