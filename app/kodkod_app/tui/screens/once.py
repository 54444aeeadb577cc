"""Screens that are left once, however many keys say so."""

from __future__ import annotations

from textual.await_complete import AwaitComplete
from textual.screen import Screen, ScreenResultType


class Once(Screen[ScreenResultType]):
    """A screen whose first word counts; behind `ModalScreen` among the bases, for the looks are those of the first."""

    def dismiss(self, result: ScreenResultType | None = None) -> AwaitComplete:
        """Leave. A second key that came before the screen was gone would take away the one below, or end the app."""
        if self.app.screen is not self:
            return AwaitComplete.nothing()  # type: ignore[no-any-return, no-untyped-call]  # Textual left it so
        return super().dismiss(result)
