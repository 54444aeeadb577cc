"""Lines at whatever width there is, drawn one by one, and kept while they are the same."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from rich.segment import Segment
from textual.content import Content
from textual.css.styles import RulesMap
from textual.highlight import ANSIDarkHighlightTheme, ANSILightHighlightTheme, HighlightTheme
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.visual import RenderOptions, Visual
from textual.widget import Widget

from kodkod_app.tui.prose.line import Line, selected_text

GetStyle = Callable[[str | Style], Style]


@dataclass(frozen=True, slots=True)
class Look:
    """What the colours depend on."""

    theme: str = ""
    is_ansi: bool = False
    """The terminal's own colours, where a background may hide the text on it."""
    is_dark: bool = True

    @property
    def code(self) -> type[HighlightTheme]:
        """How code is coloured."""
        if not self.is_ansi:
            return HighlightTheme
        return ANSIDarkHighlightTheme if self.is_dark else ANSILightHighlightTheme


class Flow(Visual):
    """Lines at a width. A line that is the same object as at the last drawing is not drawn again."""

    def __init__(self) -> None:
        self.look = Look()
        self._drawn: list[tuple[Line, Strip]] = []
        self._drawn_at: tuple[Style, int] | None = None

    @abstractmethod
    def lines(self, width: int) -> list[Line]:
        """What it comes to at this width in cells."""

    def restyle(self) -> None:
        """The look is another: what was laid out in the old one counts no more."""

    def wear(self, look: Look) -> None:
        """Be shown in this look."""
        if look != self.look:
            self.look, self._drawn_at = look, None
            self.restyle()

    def get_optimal_width(self, rules: RulesMap, container_width: int) -> int:  # noqa: ARG002
        """All there is."""
        return container_width

    def get_height(self, rules: RulesMap, width: int) -> int:  # noqa: ARG002
        """Lines at this width."""
        return len(self.lines(width))

    def render_strips(self, width: int, height: int | None, style: Style, options: RenderOptions) -> list[Strip]:
        """Draw the lines, of which those that are known are taken as they were."""
        lines = self.lines(width) if width else []
        if self._drawn_at != (style, width):
            self._drawn_at, self._drawn = (style, width), []
        get_style = _remembering(options.get_style)
        known = self._drawn
        self._drawn = [
            known[y] if y < len(known) and known[y][0] is line else (line, _draw(line.content, y, style, get_style))
            for y, line in enumerate(lines)
        ]
        strips = [strip for _, strip in self._drawn]
        if options.selection is not None and options.selection_style is not None:
            self._mark(strips, options.selection, options.selection_style, style, get_style)
        return strips[:height]

    def _mark(self, strips: list[Strip], chosen: Selection, look: Style, style: Style, get_style: GetStyle) -> None:
        for y, (line, _) in enumerate(self._drawn):
            if (span := chosen.get_span(y)) is not None:
                start, end = span
                marked = line.content.stylize(look, start, end if end >= 0 else len(line.content.plain))
                strips[y] = _draw(marked, y, style, get_style)

    def selected(self, chosen: Selection, width: int) -> str:
        """What a copy of a selection says."""
        lines = self.lines(width)
        if not lines:
            return ""
        end = len(lines) - 1, len(lines[-1].content.plain)
        first = (chosen.start.y, chosen.start.x) if chosen.start is not None else (0, 0)
        return selected_text(lines, first, (chosen.end.y, chosen.end.x) if chosen.end is not None else end)


def _remembering(get_style: GetStyle) -> GetStyle:
    """The same, with every style looked up once."""
    known: dict[str | Style, Style] = {}

    def look_up(style: str | Style) -> Style:
        found = known.get(style)
        if found is None:
            found = known[style] = get_style(style)
        return found

    return look_up


def _draw(content: Content, y: int, style: Style, get_style: GetStyle) -> Strip:
    """A strip that knows of each character where it stands, for the mouse."""
    segments: list[Segment] = []
    x = 0
    for text, look in content.render(style, end="", parse_style=get_style):
        segments.append(Segment(text, look.rich_style_with_offset(x, y)))
        x += len(text)
    return Strip(segments, content.cell_length)


class FlowView(Widget):
    """A widget that shows a flow."""

    flow: Flow

    def render(self) -> Flow:
        """All of it, in the look of the moment."""
        theme = self.app.current_theme
        self.flow.wear(Look(theme.name, self.app.native_ansi_color, theme.dark))
        return self.flow

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The text that is selected, without marks and margins."""
        return self.flow.selected(selection, self.size.width), "\n"
