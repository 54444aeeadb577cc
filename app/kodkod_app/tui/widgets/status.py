"""The line below the prompt: mode, model, box, branch, tokens, speed, context. Where it is narrow the least goes."""

from __future__ import annotations

from dataclasses import dataclass

from textual.app import RenderResult
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from kodkod_app.tui.meter import Meter, Prefill

_SEPARATOR = "  "


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the line shows."""

    model: str = ""
    mode: str = "default"
    box: str = ""
    branch: str = ""
    activity: str = ""
    """What goes on, in a few words."""
    is_behind: bool = False
    """The reader has scrolled away from the end."""
    context_tokens: int = 0
    max_context_tokens: int = 0
    reused_tokens: int = 0
    new_tokens: int = 0
    tokens_per_s: float = 0.0
    acceptance: float | None = None
    speed_up: float = 1.0
    """Of decoding, by the drafts."""
    doubted_tokens: int = 0
    prefill: Prefill | None = None


def facts_of(meter: Meter, *, is_behind: bool = False, **scene: str) -> Facts:
    """The meter's counts, and the scene."""
    return Facts(
        is_behind=is_behind,
        context_tokens=meter.context_tokens,
        max_context_tokens=meter.max_context_tokens,
        reused_tokens=meter.reused_tokens,
        new_tokens=meter.new_tokens,
        tokens_per_s=meter.tokens_per_s,
        acceptance=meter.acceptance,
        speed_up=meter.speed_up,
        doubted_tokens=meter.doubted_tokens,
        prefill=meter.prefill,
        **scene,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of the line; the smaller the weight, the sooner it goes."""

    content: Content
    weight: int


class StatusLine(Widget):
    """Shows `Facts` in one line."""

    DEFAULT_CSS = """
    StatusLine {
        height: 1;
        width: 1fr;
        padding: 0 2;
        color: $muted;
    }
    """
    facts: reactive[Facts] = reactive(Facts())

    def render(self) -> RenderResult:
        """Left: where one is. Right: what it costs."""
        left, right = _left(self.facts), _right(self.facts)
        width = self.content_size.width
        while left or right:
            a, b = _joined(left), _joined(right)
            space = width - a.cell_length - b.cell_length
            if space >= 2 or (space >= 0 and not (left and right)):
                return Content.assemble(a, " " * space, b)
            weakest = min([*left, *right], key=lambda part: part.weight)
            left = [part for part in left if part is not weakest]
            right = [part for part in right if part is not weakest]
        return Content("")


def _joined(parts: list[_Part]) -> Content:
    return Content(_SEPARATOR).join([part.content for part in parts])


def _left(facts: Facts) -> list[_Part]:
    parts = [_Part(Content.styled(facts.mode, f"bold {_MODE_COLOURS.get(facts.mode, '$secondary')}"), 100)]
    if facts.activity:
        parts.append(_Part(Content.styled(facts.activity, "$primary"), 90))
    if facts.is_behind:
        parts.append(_Part(Content.styled("↓ more below, ctrl+end", "$secondary"), 92))
    if facts.model:
        parts.append(_Part(Content(facts.model), 60))
    if facts.box:
        parts.append(_Part(Content(facts.box), 40))
    if facts.branch:
        parts.append(_Part(Content(f"⎇ {facts.branch}"), 30))
    return parts


_MODE_COLOURS = {
    "default": "$secondary",
    "plan": "$success",
    "acceptEdits": "$primary",
    "auto": "$warning",
    "dontAsk": "$secondary",
    "bypassPermissions": "$error",
}


def _right(facts: Facts) -> list[_Part]:
    parts: list[_Part] = []
    if facts.prefill is not None:
        parts.append(_Part(Content(_told_prefill(facts.prefill)), 95))
    elif facts.tokens_per_s:
        parts.append(_Part(Content(f"{facts.tokens_per_s:,.0f} tok/s"), 70))
    if facts.acceptance is not None:
        faster = f" ×{facts.speed_up:.1f}" if facts.speed_up > 1 else ""
        parts.append(_Part(Content(f"drafts {facts.acceptance:.0%}{faster}"), 50))
    if facts.doubted_tokens:
        parts.append(_Part(Content.styled(f"doubt {facts.doubted_tokens}", "$warning"), 55))
    if facts.reused_tokens or facts.new_tokens:
        parts.append(_Part(Content(f"reused {short(facts.reused_tokens)} new {short(facts.new_tokens)}"), 65))
    if facts.max_context_tokens:
        share = facts.context_tokens / facts.max_context_tokens
        colour = "$error" if share > 0.9 else "$warning" if share > 0.75 else ""
        told = f"ctx {short(facts.context_tokens)}/{short(facts.max_context_tokens)} {share:.0%}"
        parts.append(_Part(Content.styled(told, colour), 80))
    return parts


def _told_prefill(prefill: Prefill) -> str:
    left = "" if prefill.left_s is None else f" {prefill.left_s:.0f} s left"
    return f"reading {'ahead ' * prefill.is_ahead}{short(prefill.done_tokens)}/{short(prefill.total_tokens)}{left}"


def short(count: int) -> str:
    """A count in at most four characters and a letter."""
    if count < 10_000:
        return f"{count:,}" if count >= 1_000 else str(count)
    return f"{count / 1_000:.0f}k" if count < 1_000_000 else f"{count / 1_000_000:.1f}M"
