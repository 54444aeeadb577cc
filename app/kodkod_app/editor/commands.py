"""What a person may write in an editor's prompt that is no word to the model: the editor offers it behind a `/`."""

from __future__ import annotations

from acp.schema import AvailableCommand, AvailableCommandInput, AvailableCommandsUpdate, UnstructuredCommandInput

_COMPACT = "compact"


def told_commands() -> AvailableCommandsUpdate:
    """For the editor, once a session is open."""
    hint = AvailableCommandInput(UnstructuredCommandInput(hint="what to keep above all"))
    compact = AvailableCommand(name=_COMPACT, description="Go on from a summary of what was said", input=hint)
    return AvailableCommandsUpdate(session_update="available_commands_update", available_commands=[compact])


def compact_focus(text: str) -> str | None:
    """What is to be kept, where a prompt asks for a summary; None where it is a word to the model."""
    name, *focus = text.split(maxsplit=1)
    return "".join(focus).strip() if name == f"/{_COMPACT}" else None
