"""How a model is to be worked with: `kodkod.json` in its checkpoint folder.

    {"tools": ["test", "view", "edit", "git", "finish"], "declare_tools": false, "system": false, "guided": true}

A large model reads what its tools are and which calls make sense. A small one was trained on a few of them, knows them
without a declaration, and is offered only calls that make sense. A folder without the file holds a large one.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from kodkod_engine.errors import CheckpointCorrupt
from kodkod_engine.messages import ToolSpec
from kodkod_tools import registry

FILE_NAME = "kodkod.json"


class Profile(BaseModel):
    """See the module. The same model has the same profile, so a session opened again has the one it began with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tools: tuple[str, ...] | None = None
    """Names of the tools the model may call; None for all."""
    declare_tools: bool = True
    """The conversation begins with a declaration of the tools."""
    system: bool = True
    """Then comes the system text."""
    guided: bool = False
    """Each turn is one call among those that make sense (`guidance.py`)."""
    searched: bool = False
    """A guided turn at temperature 0 is the most probable as a whole (`proposals.py`), not token by token."""

    @field_validator("tools")
    @classmethod
    def _known(cls, tools: tuple[str, ...] | None) -> tuple[str, ...] | None:
        known = [spec.name for spec in registry.specs()]
        if unknown := sorted(set(tools or ()) - set(known)):
            raise ValueError(f"there is no tool {', '.join(unknown)}; name some of {', '.join(known)}")
        if tools is not None and not tools:
            raise ValueError("name at least one tool, or leave the field out for all of them")
        return tools

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools, in the order in which they are declared."""
        return tuple(spec for spec in registry.specs() if self.tools is None or spec.name in self.tools)


def read_profile(folder: Path) -> Profile:
    """The profile of a checkpoint folder; the default one where the folder has none.

    Raises:
        CheckpointCorrupt: the file is there and cannot be read.
    """
    path = folder / FILE_NAME
    try:
        return Profile.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Profile()
    except ValidationError as fault:
        first = fault.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        cause = f"{place}: {first['msg']}" if place else first["msg"]
        raise CheckpointCorrupt(f"{path} cannot be used ({cause}); correct it") from fault
    except OSError as fault:
        raise CheckpointCorrupt(f"{path} cannot be read ({fault.strerror}); correct it") from fault
