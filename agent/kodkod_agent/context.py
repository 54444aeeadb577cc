"""What is put before the model: the fixed prompt, project instructions, bounded results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath

from kodkod_agent.config import AgentConfig
from kodkod_engine.api import Engine
from kodkod_engine.chat.ledger import TokenLedger
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_tools.base import ToolContext, ToolError
from kodkod_tools.files import read_text
from kodkod_tools.paths import resolve
from kodkod_tools.text.truncate import cut_middle

INSTRUCTIONS = "AGENTS.md"
_MAX_INSTRUCTION_BYTES = 1024**2


def prompt(name: str, **values: object) -> str:
    """A page of `prompts/` with its gaps filled."""
    page = resources.files("kodkod_agent").joinpath("prompts", f"{name}.md").read_text(encoding="utf-8")
    return page.strip().format(**values) if values else page.strip()


@dataclass(frozen=True, slots=True)
class Budget:
    """How the model's context is shared out. All in tokens."""

    context: int
    turn: int
    """For one turn of the model."""
    result: int
    """For one tool result."""
    summary: int
    """For the summary at a rebuild, and the words that ask for it."""
    rebuilt: int
    """For everything, after a rebuild."""

    @classmethod
    def of(cls, config: AgentConfig, engine: Engine) -> Budget:
        """The shares of an engine's context."""
        context = engine.max_context_tokens
        return cls(
            context=context,
            turn=min(config.max_turn_tokens, context // 4),
            result=int(context * config.max_result_share),
            summary=min(config.summary_tokens, context // 8),
            rebuilt=int(context * config.rebuild_share),
        )

    def is_near_full(self, ledger: TokenLedger, coming: int = 0) -> bool:
        """Whether so many tokens, the next turn and one result might leave no room to sum up."""
        return len(ledger) + coming + self.turn + self.result + 2 * self.summary > self.context

    def room_for_result(self, ledger: TokenLedger) -> int:
        """Tokens the next result may take: half of what is left, so that several results of one turn always fit."""
        return max(0, min(self.result, (self.context - len(ledger) - 2 * self.summary) // 2))

    def turn_tokens(self, ledger: TokenLedger, left: int) -> int:
        """Tokens the next turn may take, of `left` in the run."""
        return max(1, min(self.turn, left, self.context - len(ledger) - 1))


def fit_tokens(tokenizer: Tokenizer, text: str, max_tokens: int) -> str:
    """`text`, cut in the middle until it has at most `max_tokens` tokens."""
    max_chars = len(text)
    while max_chars and (num_tokens := len(tokenizer.encode_text(text))) > max_tokens:
        max_chars = min(max_chars - 1, max_chars * max_tokens // num_tokens)
        text = cut_middle(text, max_chars)
    return text


def read_instructions(tools: ToolContext, folder: PurePosixPath, max_chars: int) -> str | None:
    """The text of a folder's AGENTS.md; None when there is none that can be read. Links out of the tree are refused."""
    try:
        if not (tools.work_tree / folder / INSTRUCTIONS).exists():
            return None
        file = read_text(resolve(tools, str(folder / INSTRUCTIONS)), _MAX_INSTRUCTION_BYTES)
    except (ToolError, OSError):
        return None
    return cut_middle(file.text.strip(), max_chars) or None


def new_instructions(
    tools: ToolContext, touched: Iterable[str], known: Sequence[str], max_chars: int
) -> list[tuple[str, str]]:
    """Instruction files above the touched paths that are not in the conversation: (path, text), the root first.

    Args:
        touched: paths as calls named them.
        known: paths of the instruction files that were shown.
    """
    folders = {folder for path in touched for folder in _folders_above(tools, path)}
    paths = sorted((folder / INSTRUCTIONS for folder in folders), key=lambda path: (len(path.parts), path))
    unread = [path for path in paths if str(path) not in known]
    read = ((str(path), read_instructions(tools, path.parent, max_chars)) for path in unread)
    return [(path, text) for path, text in read if text]


def _folders_above(tools: ToolContext, path: str) -> list[PurePosixPath]:
    try:
        place = resolve(tools, path)
        is_folder = place.absolute.is_dir()
    except (ToolError, OSError):  # no path, one too long, or in a folder that is closed to the person
        return []
    inside = PurePosixPath(place.relative)
    return [inside, *inside.parents] if is_folder else list(inside.parents)
