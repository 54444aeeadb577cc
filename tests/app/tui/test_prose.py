"""Markdown as lines: nothing that was written is lost, however it comes, and what a copy takes is the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.geometry import Offset
from textual.selection import Selection

from kodkod_app.tui import store as s
from kodkod_app.tui.prose.document import MAX_CHARS, Document
from kodkod_app.tui.prose.line import Line, selected_text
from kodkod_app.tui.prose.table import fitted
from kodkod_app.tui.themes import THEMES, full_name
from kodkod_app.tui.widgets.answer import AnswerView
from kodkod_app.tui.widgets.diff import DiffFlow, DiffView

WHOLE = """\
# Head

Some **bold** words and `code` and [a link](https://example.org/x), which go on and on until they are wrapped.

- one
- two
  - deeper
  - ```python
    def f(x):
        return x
    ```

3. three
4. four

> quoted
> - inside

| left | right |
|---|--:|
| a cell | 1 |

***

<div>kept</div>

    indented code
"""
BLOCKS = st.sampled_from([f"{block}\n\n" for block in WHOLE.split("\n\n")])


def shown(document: Document, width: int = 40) -> list[str]:
    return [line.content.plain.rstrip() for line in document.lines(width)]


def copied(lines: list[Line]) -> str:
    return selected_text(lines, (0, 0), (len(lines) - 1, len(lines[-1].content.plain)))


@settings(deadline=None, max_examples=60)
@given(st.lists(BLOCKS, max_size=6), st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(24, 90))
def test_it_comes_to_the_same_however_it_comes(blocks: list[str], sizes: list[int], width: int) -> None:
    text = "".join(blocks)
    growing, at, turn = Document(), 0, 0
    while at < len(text):
        growing.append(text[at : at + sizes[turn % len(sizes)]])
        growing.lines(width)
        at, turn = at + sizes[turn % len(sizes)], turn + 1
    growing.append("", is_last=True)
    assert shown(growing, width) == shown(Document(text), width)
    assert all(line.content.cell_length <= width for line in growing.lines(width))


def test_every_kind_of_block_is_shown() -> None:
    assert shown(Document(WHOLE), 60) == [
        "Head",
        "Some bold words and code and a link, which go on and on",
        "until they are wrapped.",
        "",
        "• one",
        "• two",
        "  ▪ deeper",
        "  ▪",
        "      def f(x):",
        "          return x",
        "",
        "",
        " 3. three",
        " 4. four",
        "",
        "▌ quoted",
        "▌",
        "▌ • inside",
        "",
        "╭────────┬───────╮",
        "│ left   │ right │",
        "├────────┼───────┤",
        "│ a cell │     1 │",
        "╰────────┴───────╯",
        "",
        "─" * 60,
        "",
        "<div>kept</div>",
        "",
        "",
        "  indented code",
        "",
    ]


def test_a_copy_has_neither_wraps_nor_margins() -> None:
    text = copied(Document(WHOLE).lines(30))
    assert "Some bold words and code and a link, which go on and on until they are wrapped." in text
    assert "\ndef f(x):\n    return x\n" in text
    assert "\n• two\n  ▪ deeper\n" in text
    assert "\nquoted\n" in text


def test_a_part_of_a_line_is_copied() -> None:
    document = Document("> one two three four")
    assert [line.content.plain.rstrip() for line in document.lines(12)] == ["▌ one two", "▌ three", "▌ four"]
    assert document.selected(Selection(Offset(6, 0), Offset(5, 1)), 12) == "two thr"
    assert document.selected(Selection(None, None), 12) == "one two three four"


def test_a_word_and_a_line_of_code_that_are_too_long_are_broken_and_copied_whole() -> None:
    word, code = "a" * 95, "x = '" + "b " * 60 + "'"
    document = Document(f"{word}\n\n```python\n{code}\n```")
    assert all(line.content.cell_length <= 30 for line in document.lines(30))
    assert word in copied(document.lines(30))
    assert code in copied(document.lines(30))


def test_html_and_markup_are_text() -> None:
    text = "a <b>bold</b> [red]x[/red] [@click=app.quit]q[/]<br>next\n\n<script>\nalert(1)\n</script>"
    assert shown(Document(text), 80) == [
        "a <b>bold</b> [red]x[/red] [@click=app.quit]q[/]", "next", "", "<script>", "alert(1)", "</script>"
    ]  # fmt: skip


def test_wide_characters_fit_into_columns_and_columns_into_the_width() -> None:
    document = Document("| 漢字 | b |\n|---|:-:|\n| x | " + "日本語 " * 20 + "|")
    lines = document.lines(40)
    assert {line.content.cell_length for line in lines} == {40}
    assert fitted([5, 60, 60], 50) == [5, 22, 22]
    assert fitted([1, 1], 100) == [3, 3]
    assert fitted([90, 2], 1) == [3, 3]


def test_a_long_block_is_not_parsed_at_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Emphasis that never ends is the dearest there is: its cost must not grow with the square of its length."""
    document, parsed = Document(), []
    parse = document._parser.parse
    monkeypatch.setattr(document._parser, "parse", lambda text: parsed.append(len(text)) or parse(text))
    for _ in range(125):
        document.append("*a" * 32)
        assert "".join(shown(document, 80)).count("a") == document.num_chars / 2
    document.append("", is_last=True)
    assert "".join(shown(document, 80)).count("a") == 4_000
    assert len([size for size in parsed if size > 4_000]) < 30


def test_what_is_not_parsed_yet_goes_on_behind_what_is() -> None:
    document = Document()
    document.append("word " * 1_000)
    document.append("and **more")
    assert shown(document, 5_100) == ["word " * 1_000 + "and **more"]
    document.append("**", is_last=True)
    assert shown(document, 5_100) == ["word " * 1_000 + "and more"]


def test_beyond_a_length_text_is_shown_as_written() -> None:
    document = Document()
    for _ in range(MAX_CHARS // 1_000 + 3):
        document.append("word **" + "x" * 989 + "**\n\n", is_last=True)
    text = copied(document.lines(100))
    assert text.count("word x") == MAX_CHARS // 1_000
    assert text.count("word **x") == 3


def test_what_is_the_same_is_the_same_object() -> None:
    document = Document("first\n\n```python\n" + "x = 1\n" * 90)
    document.append("y")
    before = document.lines(50)
    document.append(" = 2\n")
    after = document.lines(50)
    same = [line is old for line, old in zip(after, before, strict=False)]
    assert same.count(False) <= 3
    assert same[:80] == [True] * 80


LONG = "@@ -7,2 +7,2 @@\n def f():\n-    return '" + "old " * 30 + "'\n+    return '" + "new " * 30 + "'\n"


def test_a_long_line_of_a_change_goes_on_below() -> None:
    lines = DiffFlow(LONG, "a.py", 400).lines(50)
    assert all(line.content.cell_length <= 50 for line in lines)
    assert [line.content.plain[:4] for line in lines] == ["7   ", "8 - ", "  ↪ ", "  ↪ ", "8 + ", "  ↪ ", "  ↪ "]
    assert copied(lines).count("old ") == 30
    assert "\n    return 'new new" in copied(lines)


class Reader(App[None]):
    """An answer and a change."""

    def __init__(self) -> None:
        super().__init__()
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = full_name("dark")
        self.told: list[str] = []

    def compose(self) -> ComposeResult:
        yield AnswerView(s.Answer("[to](https://example.org) `code`\n\n```python\nimport os\n```\n"))
        yield DiffView(LONG, "a.py")

    def notify(self, message: str, **_: object) -> None:  # type: ignore[override]
        self.told.append(message)

    def colours(self) -> set[str]:
        segments = [segment for strip in self.screen._compositor.render_strips() for segment in strip]
        return {str(segment.style.color) for segment in segments if segment.style and segment.text.strip()}


async def test_a_link_is_told_and_colours_are_those_of_the_theme() -> None:
    app = Reader()
    async with app.run_test(size=(60, 24)) as pilot:
        await pilot.click(AnswerView, offset=(3, 0))
        assert app.told == ["https://example.org"]
        dark = app.colours()
        app.theme = full_name("light")
        await pilot.pause()
        await pilot.pause()
        light = app.colours()
        assert not dark & light
        app.theme = full_name("dark")
        await pilot.pause()
        await pilot.pause()
        assert app.colours() == dark
