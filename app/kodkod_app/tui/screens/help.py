"""Keys, read off the bindings there are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from textual.app import App
from textual.binding import Binding, BindingType

from kodkod_app.tui.screens.listing import Entry


def key_entries(app: App[Any], bindings: Iterable[BindingType]) -> tuple[Entry, ...]:
    """The keys of bindings that say what they do."""
    return tuple(
        Entry(binding.key_display or " ".join(_keys(app, binding)), binding.description)
        for binding in bindings
        if isinstance(binding, Binding) and binding.description
    )


def _keys(app: App[Any], binding: Binding) -> list[str]:
    return [app.get_key_display(replace(binding, key=key.strip())) for key in binding.key.split(",")]
