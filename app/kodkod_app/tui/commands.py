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


COMMANDS = (
    SlashCommand("help", "keys and commands", "show_help"),
    SlashCommand("sessions", "earlier sessions of this folder", "sessions"),
    SlashCommand("branches", "the tree of steps, and going to one", "branches"),
    SlashCommand("rewind", "back to an earlier step, files too", "rewind", "[step]"),
    SlashCommand("fork", "a new session from a step of this one", "fork", "[step]"),
    SlashCommand("compact", "go on from a summary of what was said", "compact", "[focus]"),
    SlashCommand("new", "begin a new session", "new_session"),
    SlashCommand("continue", "go on with a run that was cut short", "proceed"),
    SlashCommand("skills", "written instructions the model may read", "skills"),
    SlashCommand("mcp", "MCP servers and their tools; one is started again", "mcp", "[restart NAME]"),
    SlashCommand("mode", "how much is done without asking", "set_mode", "[mode]"),
    SlashCommand("theme", "dark, light, contrast, ansi", "set_theme", "[name]"),
    SlashCommand("settings", "everything that can be set", "settings"),
    SlashCommand("doctor", "what this machine has and misses", "doctor"),
    SlashCommand("export", "this session as Markdown or ATIF", "export"),
    SlashCommand("copy", "the last answer to the clipboard", "copy_answer"),
    SlashCommand("quit", "leave; the session is kept", "leave"),
)


def find_command(text: str) -> tuple[SlashCommand, str] | None:
    """The command a line calls, and its argument; None where there is no such command."""
    name, _, argument = text.removeprefix("/").partition(" ")
    found = next((command for command in COMMANDS if command.name == name), None)
    return None if found is None else (found, argument.strip())


def matching(fragment: str) -> list[SlashCommand]:
    """Commands whose name begins so, then those that have it in them."""
    begins = [command for command in COMMANDS if command.name.startswith(fragment)]
    return begins + [command for command in COMMANDS if fragment in command.name and command not in begins]
