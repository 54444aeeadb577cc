"""The looks: dark, light, high contrast, and the terminal's own colours."""

from __future__ import annotations

import tomllib
from pathlib import Path

from textual.theme import Theme

NAMES = ("dark", "light", "contrast", "ansi")
DEFAULT = "dark"


def full_name(name: str) -> str:
    """As the app knows it."""
    return f"kodkod-{name}"


DARK = Theme(
    name=full_name("dark"),
    primary="#d7a65f",
    secondary="#8fb7c9",
    accent="#b59fd0",
    warning="#e0b050",
    error="#e07a6b",
    success="#94b77a",
    foreground="#d9d4c9",
    background="#16171a",
    surface="#1c1e22",
    panel="#25282d",
    dark=True,
    variables={
        "muted": "#857f76",
        "rule": "#33363c",
        "diff-add": "#1f3325",
        "diff-add-word": "#2f5c3a",
        "diff-remove": "#3b2224",
        "diff-remove-word": "#6d3335",
        "block-cursor-background": "#d7a65f",
        "footer-key-foreground": "#d7a65f",
    },
)
LIGHT = Theme(
    name=full_name("light"),
    primary="#9a5b14",
    secondary="#2f6580",
    accent="#6d4b94",
    warning="#8a6100",
    error="#a83a2c",
    success="#3f6b2a",
    foreground="#2b2a27",
    background="#faf8f3",
    surface="#f3f0e8",
    panel="#e8e4d9",
    dark=False,
    variables={
        "muted": "#767067",
        "rule": "#d5cfc1",
        "diff-add": "#e0efdb",
        "diff-add-word": "#b5dcac",
        "diff-remove": "#f7e0db",
        "diff-remove-word": "#eeb8ae",
    },
)
CONTRAST = Theme(
    name=full_name("contrast"),
    primary="#ffd75f",
    secondary="#5fd7ff",
    accent="#d7afff",
    warning="#ffd700",
    error="#ff8787",
    success="#87ff87",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#1c1c1c",
    dark=True,
    text_alpha=1.0,
    variables={
        "muted": "#d0d0d0",
        "rule": "#ffffff",
        "diff-add": "#003300",
        "diff-add-word": "#006600",
        "diff-remove": "#4d0000",
        "diff-remove-word": "#990000",
    },
)
ANSI = Theme(
    name=full_name("ansi"),
    ansi=True,
    primary="ansi_yellow",
    secondary="ansi_cyan",
    accent="ansi_yellow",
    warning="ansi_yellow",
    error="ansi_red",
    success="ansi_green",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    boost="ansi_default",
    dark=True,
    variables={
        "muted": "ansi_bright_black",
        "rule": "ansi_bright_black",
        "diff-add": "ansi_default",
        "diff-add-word": "ansi_default",
        "diff-remove": "ansi_default",
        "diff-remove-word": "ansi_default",
        "ansi-background": "ansi_black",
        "ansi-foreground": "ansi_white",
        "border-blurred": "ansi_bright_black",
        "block-cursor-foreground": "ansi_black",
        "block-cursor-background": "ansi_white",
        "input-cursor-background": "ansi_white",
        "input-cursor-foreground": "ansi_black",
        "input-cursor-text-style": "none",
        "input-selection-background": "ansi_bright_blue",
        "input-selection-foreground": "ansi_black",
        "screen-selection-background": "ansi_bright_blue",
        "screen-selection-foreground": "ansi_black",
    },
)
THEMES = (DARK, LIGHT, CONTRAST, ANSI)


def wanted_theme(settings_file: Path) -> str:
    """`[tui] theme` of the person's settings, read before the settings are: the first frame has its colours already.

    What cannot be read is told of when the settings are put together.
    """
    try:
        section = tomllib.loads(settings_file.read_text(encoding="utf-8-sig")).get("tui", {})
    except (OSError, ValueError):
        return DEFAULT
    name = section.get("theme", DEFAULT) if isinstance(section, dict) else DEFAULT
    return name if name in NAMES else DEFAULT
