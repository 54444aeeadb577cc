"""What the model said: one widget, however long it is, that grows while it is written."""

from __future__ import annotations

from typing import ClassVar

from kodkod_app.tui.prose.document import Document
from kodkod_app.tui.prose.flow import FlowView
from kodkod_app.tui.store import Answer
from kodkod_app.tui.widgets.entry import EntryView


class AnswerView(EntryView, FlowView):
    """The model's thinking, and its prose as Markdown."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "prose--code", "prose--fence", "prose--quote", "prose--bar", "prose--mark",
    }  # fmt: skip
    DEFAULT_CSS = """
    AnswerView {
        & > .prose--code { color: $text-warning 95%; background: $warning 10%; }
        & > .prose--fence { background: black 10%; }
        & > .prose--quote { background: $boost; }
        & > .prose--bar { color: $text-primary 50%; }
        & > .prose--mark { color: $text-primary; }
        &:light {
            & > .prose--code { color: $text-error 95%; background: $error 5%; }
            & > .prose--fence { background: white 30%; }
            & > .prose--bar, & > .prose--mark { color: $text-secondary; }
        }
        &:ansi {
            & > .prose--code, & > .prose--fence, & > .prose--quote { background: transparent; }
        }
    }
    """

    def __init__(self, entry: Answer) -> None:
        super().__init__(entry)
        self.answer = entry
        self.flow: Document = Document("" if entry.is_open else entry.text, entry.reasoning.strip())
        if entry.is_open:
            self.flow.append(entry.text)
        self.auto_links = self.flow.has_links

    async def look_again(self) -> None:
        """Show what came since."""
        width = self.size.width
        lines = len(self.flow.lines(width)) if width else 0
        self.flow.think(self.answer.reasoning.strip())
        self.flow.append(self.answer.text[self.flow.num_chars :], is_last=not self.answer.is_open)
        self.auto_links = self.flow.has_links
        self.refresh(layout=not width or len(self.flow.lines(width)) != lines)

    def action_link(self, target: str) -> None:
        """Where a link leads is told; nothing is opened."""
        self.notify(target, title="Link", markup=False)
