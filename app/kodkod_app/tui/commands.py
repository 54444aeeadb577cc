"""The `/` commands: their names, what they do, and the app's action behind each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """One command."""

    name: str
    help: str
    action: str
    """Method `action_…` of the app; it is given the words behind the name where `argument` is not empty."""
    argument: str = ""
    """Its hint; empty where it takes none."""
    also: tuple[str, ...] = ()
    """Names that others have for it."""

    @property
    def names(self) -> tuple[str, ...]:
        """All it can be called by."""
        return (self.name, *self.also)


COMMANDS = (
    SlashCommand("help", "keys and commands", "show_help"),
    SlashCommand("sessions", "earlier sessions of this folder", "sessions", also=("resume",)),
    SlashCommand("branches", "the tree of steps, and going to one", "branches"),
    SlashCommand("rewind", "back to an earlier step, files too", "rewind", "[step]", also=("undo",)),
    SlashCommand("fork", "a new session from a step of this one", "fork", "[step]"),
    SlashCommand("compact", "go on from a summary of what was said", "compact", "[focus]"),
    SlashCommand("new", "begin a new session", "new_session", also=("clear",)),
    SlashCommand("continue", "go on with a run that was cut short", "proceed"),
    SlashCommand("skills", "written instructions the model may read", "skills"),
    SlashCommand("mcp", "MCP servers and their tools; one is started again", "mcp", "[restart NAME]"),
    SlashCommand("mode", "how much is done without asking", "set_mode", "[mode]"),
    SlashCommand("theme", "dark, light, contrast, ansi", "set_theme", "[name]"),
    SlashCommand("settings", "everything that can be set", "settings", also=("config",)),
    SlashCommand("doctor", "what this machine has and misses", "doctor"),
    SlashCommand("export", "this session as Markdown or ATIF", "export"),
    SlashCommand("copy", "the last answer to the clipboard", "copy_answer"),
    SlashCommand("quit", "leave; the session is kept", "leave", also=("exit",)),
)


def find_command(text: str) -> tuple[SlashCommand, str] | None:
    """The command a line calls, and its argument; None where there is no such command."""
    name, _, argument = text.removeprefix("/").partition(" ")
    found = next((command for command in COMMANDS if name in command.names), None)
    return None if found is None else (found, argument.strip())


def matching(fragment: str) -> list[SlashCommand]:
    """Commands with a name that begins so, then those that have it in one."""
    begins = [command for command in COMMANDS if any(name.startswith(fragment) for name in command.names)]
    return begins + [
        command for command in COMMANDS if command not in begins and any(fragment in name for name in command.names)
    ]
