"""Which widget shows an entry. What the first frame has no need of is imported when it is."""

from __future__ import annotations

from kodkod_app.tui import store as s
from kodkod_app.tui.widgets.entry import EntryView


def make_view(entry: s.Entry) -> EntryView:
    """The widget for an entry."""
    from kodkod_app.tui.widgets import messages as m

    match entry:
        case s.Call() | s.ShellRun():
            from kodkod_app.tui.widgets.tool_call import make_block

            return make_block(entry)
        case s.Answer():
            from kodkod_app.tui.widgets.answer import AnswerView

            return AnswerView(entry)
        case s.Said():
            return m.SaidView(entry)
        case s.Checks():
            return m.ChecksView(entry)
        case s.Ending():
            return m.EndingView(entry)
        case s.Welcome():
            return m.WelcomeView(entry)
        case s.Note():
            return m.NoteView(entry)
    raise TypeError(f"no widget shows a {type(entry).__name__}")
