"""A shell script as it is judged: the commands it may run, and why it may do something else too."""

from __future__ import annotations

from dataclasses import dataclass

from kodkod_agent.shell_words import Word as Word  # who judges a command finds its words here


def names(text: str) -> frozenset[str]:
    """A set of names written in one string, with blanks between them."""
    return frozenset(text.split())


@dataclass(frozen=True, slots=True)
class Redirection:
    """Where a command reads from or writes to."""

    operator: str
    """Without a descriptor number: `>`, `>>`, `>|`, `&>`, `&>>`, `>&`, `<`, `<&`."""
    target: Word

    @property
    def writes(self) -> bool:
        """Whether it creates or changes a file."""
        duplicates = self.operator == ">&" and (self.target.text or "").isdecimal()
        return ">" in self.operator and not duplicates


@dataclass(frozen=True, slots=True)
class SimpleCommand:
    """A program with its words; no words when there are only assignments or redirections."""

    words: tuple[Word, ...] = ()
    assigned: tuple[str, ...] = ()
    """Names of the variables it sets, for itself or for what follows."""
    redirections: tuple[Redirection, ...] = ()

    @property
    def name(self) -> str | None:
        """The program, when it is known for sure."""
        return self.words[0].text if self.words and not self.words[0].is_pattern else None


@dataclass(frozen=True, slots=True)
class Script:
    """All that a command line may run."""

    commands: tuple[SimpleCommand, ...]
    doubts: tuple[str, ...]
    """Why it may do something else too, one line each; empty when it cannot."""
