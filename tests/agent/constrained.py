"""A work tree with what trees hold, and turns drawn under its constraint."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kodkod_agent.call_grammar import CallGrammar
from kodkod_engine.chat.parser import parse_turn
from kodkod_engine.chat.special_tokens import Tag
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.turn_constraint import TurnConstraint
from kodkod_engine.messages import ToolCall
from kodkod_sandbox.base import BoxOptions
from kodkod_sandbox.none import NoSandbox
from kodkod_tools import registry
from kodkod_tools.base import ToolContext, ToolError
from kodkod_tools.config import ToolsConfig
from kodkod_tools.text.replace import Applied, replace

FILES = {
    "src/app.py": "def add(a, b):\n    return a - b\n\n\ndef total(items):\n    return sum(items)\n",
    "src/apple.py": "x = 1\r\ny = 2\r\n",
    "src/inner/grüße.txt": "Grüße, 你好 👩‍💻\nnaïve\tcafé",
    "src/inner/empty.py": "",
    "only_empty/__init__.py": "",
    "readme.md": "# Title\n\nSome words, `code`, and </longcat_arg_value> in a text.\n",
    "src/latin.txt": "ae",
    ".gitignore": "ignored/\n",
    "ignored/seen.py": "z = 3\n",
}


def make_tree(folder: Path) -> Path:
    """Text of all kinds, an empty file, a binary one, links in and out."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    (folder / "src/latin.txt").write_bytes("größer\n".encode("latin-1"))
    (folder / "data.bin").write_bytes(b"\0\1\2" * 100)
    (folder / ".git").mkdir()
    (folder / "link").symlink_to("src")
    (folder / "out").symlink_to("/etc")
    return folder.resolve()


def context_of(tree: Path, logs: Path) -> ToolContext:
    """What tools act in; nothing is run in it."""
    logs.mkdir(exist_ok=True)
    (logs / "test-1.log").write_text("42 passed\n")
    return ToolContext(NoSandbox(BoxOptions(work_tree=tree)), tree, ToolsConfig(), logs)


@dataclass
class Drawing:
    """Turns of one call each, every token chosen among those allowed."""

    tokenizer: Tokenizer
    constraint: TurnConstraint
    choose: Callable[[Sequence[int], Sequence[int]], int]
    """Ids so far, and those allowed: the next."""

    def call(self, at_most: int = 4_000) -> list[int]:
        """The ids of a call, without what follows its closing tag."""
        special = self.tokenizer.special
        ids = [special.ids[Tag.TOOL_CALL]]
        while ids[-1] != special.ids[Tag.TOOL_CALL_END]:
            assert len(ids) < at_most, self.tokenizer.decode(ids[:200], skip_special=False)
            allowed = self.constraint.allowed_ids(ids)
            assert allowed, "there is always a way on"
            ids.append(self.choose(ids, list(allowed)))
        return ids


def hasty(tokenizer: Tokenizer, seed: int, haste: float) -> Callable[[Sequence[int], Sequence[int]], int]:
    """Any allowed id, but values, and strings in JSON, end with some probability where they may: by chance they hardly
    ever would.
    """
    draws = random.Random(seed)
    ends = [tokenizer.special.ids[tag] for tag in (Tag.ARG_VALUE_END, Tag.TOOL_CALL_END)]
    ends += [token_id for sign in ('"', "]", "}") for token_id in tokenizer.encode_text(sign)]

    def choose(_: Sequence[int], allowed: Sequence[int]) -> int:
        ending = [token_id for token_id in ends if token_id in allowed]
        return ending[0] if ending and draws.random() < haste else draws.choice(allowed)

    return choose


def assert_sound(call: ToolCall, tools: ToolContext) -> None:
    """What a constraint promises of every call."""
    assert call.fault is None, call
    assert call.name in {spec.name for spec in registry.specs()}
    try:
        registry.parse_call(call)
    except ToolError as error:
        raise AssertionError(f"{call}: {error.message}") from error
    path = call.arguments.get("path")
    if call.name in ("view", "search", "find", "edit") and path is not None:
        there = tools.work_tree / path
        assert there.exists(), call
        assert call.name != "find" or there.is_dir(), call
    if call.name == "edit":
        text = (tools.work_tree / path).read_bytes().decode("utf-8" if "latin" not in path else "latin-1")
        line, everywhere = call.arguments.get("line"), call.arguments.get("replace_all", False)
        assert call.arguments["old"] in text, call
        assert 1 <= (line or 1) <= max(1, text.count("\n") + 1)
        outcome = replace(text, call.arguments["old"], call.arguments["new"], replace_all=everywhere, line=line)
        assert isinstance(outcome, Applied), call
    if call.name == "write":
        assert not Path(path).is_absolute()
        assert ".." not in Path(path).parts


def drawn_call(tokenizer: Tokenizer, grammar: CallGrammar, seed: int, haste: float) -> ToolCall:
    """One call, read by the real parser."""
    constraint = grammar.constraint()
    ids = Drawing(tokenizer, constraint, hasty(tokenizer, seed, haste)).call()
    assert not constraint.loosened
    message = parse_turn(tokenizer, [*ids, tokenizer.eos_id], registry.specs())
    assert (message.text, message.reasoning, len(message.calls)) == ("", "", 1)
    return message.calls[0]
