"""The words of a shell command: what the program gets of them, as far as that is known before bash expands them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise

from tree_sitter import Node

_PLAIN_WORD = re.compile(r"(?:\\[^\n]|[^\s|&;()<>$`\"'\\])+")
_PLAIN_EXPANSION = re.compile(r"\$\{[A-Za-z_][A-Za-z_0-9]*\}|\s*\$(?:[A-Za-z_][A-Za-z_0-9]*|[0-9@*#?$!-])")
_DESCRIPTOR = re.compile(r"\d+|\{.*\}", re.DOTALL)
"""Before `<` or `>` no word to bash, but what it opens: a number, or a variable to put one in, PATH for one."""
HIDDEN_EXPANSION = re.compile(r"(?<!\\)(?:\\\\)*(?:`|\$[({\[])")
"""In a string or a here-document: what bash runs or expands although it stands in quotes."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command, before bash expands it."""

    text: str | None
    """What the program gets; None where that is only known when it runs."""
    source: str
    """As written."""
    is_pattern: bool = False
    """It has unquoted `*`, `?` or `[`: bash may put any number of file names in its place."""


class WordReader(ABC):
    """Reads words out of a syntax tree, and keeps what it is not sure of."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._word_ends: set[int] = set()
        self._word_starts: set[int] = set()
        self.doubts: list[str] = []

    @property
    def _are_words_glued(self) -> bool:
        """Whether one word begins where another ends: to bash they are one."""
        return not self._word_ends.isdisjoint(self._word_starts)

    def _take_place(self, node: Node) -> None:
        """Note where a word stands."""
        self._word_starts.add(node.start_byte)
        self._word_ends.add(node.end_byte)

    @abstractmethod
    def _statement(self, node: Node) -> None:
        """Take in the commands that are substituted in a word."""

    @abstractmethod
    def _unknown(self, node: Node) -> None:
        """Leave a doubt, and take in the commands inside all the same."""

    def _text(self, node: Node) -> str:
        return self._source[node.start_byte : node.end_byte].decode()

    def _doubt(self, node: Node) -> None:
        self.doubts.append(f"it has syntax that is not judged ({node.type.replace('_', ' ').strip() or 'line end'})")

    def _odd_word(self, node: Node) -> Word:
        self._unknown(node)
        return Word(None, self._text(node))

    def _word(self, node: Node) -> Word:
        """What is known of a word; the commands substituted in it are listed."""
        source = self._text(node)
        self._take_place(node)
        pieces = node.children if node.type == "concatenation" else [node]
        if self._source[node.end_byte : node.end_byte + 1] in (b"<", b">") and _DESCRIPTOR.fullmatch(source):
            self._doubt(node)
        if any(left.end_byte != right.start_byte for left, right in pairwise(pieces)):
            self._doubt(node)
        texts = [self._piece(piece) for piece in pieces]
        bare = "".join(self._bare(piece) for piece in pieces)
        unsure = bare.startswith("~") or ("{" in bare and ("," in bare or ".." in bare)) or "=~" in bare
        known = None if unsure or None in texts else "".join(text or "" for text in texts)
        return Word(known, source, is_pattern=any(sign in bare for sign in "*?["))

    def _bare(self, node: Node) -> str:
        """The unquoted part of a piece, escapes taken away: where bash looks for patterns, braces and homes."""
        if node.type in ("word", "number", "extglob_pattern", "variable_name", "brace_expression"):
            return re.sub(r"\\.", "", self._text(node))
        return ""

    def _piece(self, node: Node) -> str | None:
        text, kind = self._text(node), node.type
        if kind in ("word", "number", "extglob_pattern", "variable_name") or (kind == "$" and text == "$"):
            return self._plain(node, text)
        if kind == "raw_string":
            return text[1:-1] if text.count("'") == 2 else self._odd_word(node).text
        if kind == "string":
            return self._string(node)
        if kind in ("simple_expansion", "expansion"):
            if not _PLAIN_EXPANSION.fullmatch(text):
                self._unknown(node)
            return None
        if kind in ("command_substitution", "process_substitution"):
            self._statement(node)
            return None
        if kind == "arithmetic_expansion" and re.fullmatch(r"\$\(\([0-9 +*/%-]+\)\)", text):
            return None
        return self._odd_word(node).text

    def _plain(self, node: Node, text: str) -> str | None:
        if text == "$" and self._source[node.end_byte : node.end_byte + 1] in (b'"', b"'"):
            self._doubt(node)  # bash sees one sign in both: a string with escapes, or to be translated
        if text == "$" or _PLAIN_WORD.fullmatch(text):
            return re.sub(r"\\(.)", r"\1", text)
        return self._odd_word(node).text

    def _string(self, node: Node) -> str | None:
        """A string in double quotes; bash takes the backslash away before `$`, a back quote, `"` and itself alone."""
        is_known = True
        for child in node.named_children:
            if child.type == "string_content":
                if HIDDEN_EXPANSION.search(self._text(child)):
                    self._doubt(node)
            else:
                is_known = False
                self._piece(child)
        text = self._text(node)
        if not (len(text) >= 2 and text[0] == text[-1] == '"'):
            self._doubt(node)
        return re.sub(r"\\([$`\"\\])", r"\1", text[1:-1].replace("\\\n", "")) if is_known else None
