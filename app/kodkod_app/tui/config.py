"""Settings of the terminal app."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class TuiConfig(BaseModel):
    """How it looks."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    theme: Literal["dark", "light", "contrast", "ansi"] = "dark"
    """`contrast` is for hard light and tired eyes; `ansi` takes the terminal's own colours."""
