"""Shell commands taken apart: every simple command in a script, wherever it stands, with what is known of its words.

The grammar is tree-sitter's. It is made for editors and forgives much that bash would read otherwise, so this reader
trusts it no further than it can check: node kinds it does not know, bytes no node accounts for, and words that bash
would split differently each leave a doubt. A script without doubts runs the commands listed here and no others; of a
script with doubts only that much is known, that what is listed may run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache

import tree_sitter_bash
from tree_sitter import Language, Node, Parser

from kodkod_agent.shell_checks import ends_inside, heredoc_is_sure, is_odd_substitution, joins_lines, uncovered
from kodkod_agent.shell_script import Redirection, Script, SimpleCommand, names
from kodkod_agent.shell_words import Word, WordReader

_MAX_CHARS = 20_000
_MAX_DEPTH = 60
_CONTAINERS = names(
    "program list pipeline subshell compound_statement negated_command if_statement elif_clause else_clause "
    "while_statement do_group command_substitution process_substitution"
)
_SEPARATORS = names("; & && || | |& ( ) { } ! if then elif else fi while until do done in for case esac $( ` <( >(") | {
    "\n"
}
_LITERALS = names(
    "word number raw_string string concatenation simple_expansion expansion command_substitution process_substitution "
    "ansi_c_string translated_string arithmetic_expansion brace_expression extglob_pattern variable_name"
)
_COMMANDS = names("command variable_assignment variable_assignments declaration_command unset_command")
_ONE_LINE = names(
    "command file_redirect declaration_command variable_assignments unset_command test_command herestring_redirect "
    "variable_assignment"
)
"""Nodes whose parts bash would take for several commands if a line ended between them."""


def parse(text: str) -> Script:
    """Take a command line or script for bash apart. Never raises; what cannot be read is a doubt."""
    if len(text) > _MAX_CHARS:
        return Script((), (f"it has more than {_MAX_CHARS:,} characters",))
    if any(_is_odd(char) for char in text):
        return Script((), ("it has control characters or unusual spaces",))
    reader = _Reader(text.encode("utf-8"))
    reader.read()
    return Script(tuple(reader.commands), tuple(dict.fromkeys(reader.doubts)))


def _is_odd(char: str) -> bool:
    return char not in " \t\n" and (char.isspace() or not char.isprintable())


@cache
def _parser() -> Parser:
    return Parser(Language(tree_sitter_bash.language()))


@dataclass(slots=True)
class _Building:
    words: list[Word] = field(default_factory=list)
    assigned: list[str] = field(default_factory=list)
    redirections: list[Redirection] = field(default_factory=list)

    def done(self) -> SimpleCommand:
        return SimpleCommand(tuple(self.words), tuple(self.assigned), tuple(self.redirections))


class _Reader(WordReader):
    """One pass over one syntax tree."""

    def __init__(self, source: bytes) -> None:
        super().__init__(source)
        self._depth = 0
        self.commands: list[SimpleCommand] = []

    def read(self) -> None:
        root = _parser().parse(self._source).root_node
        if root.has_error:
            self.doubts.append("it cannot be parsed for sure")
        if joins_lines(self._source):
            self.doubts.append("it continues a line in the middle of a word")
        self.doubts += uncovered(self._source, root)
        self._statement(root)
        if self._are_words_glued:
            self.doubts.append("two of its words may be one")

    def _check_one_line(self, node: Node) -> None:
        if ends_inside(self._source, node):
            self.doubts.append("a line ends in the middle of a command")

    # Statements

    def _statement(self, node: Node, into: _Building | None = None) -> None:
        """Read a statement; words and redirections that follow a redirection belong to the command `into`."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            self.doubts.append(f"it is nested more than {_MAX_DEPTH} deep")
        else:
            self._dispatch(node, into)
        self._depth -= 1

    def _dispatch(self, node: Node, into: _Building | None) -> None:
        kind = node.type
        if kind in _ONE_LINE:
            self._check_one_line(node)
        if kind in _CONTAINERS:
            self._container(node)
        elif kind in _COMMANDS:
            self._finish(self._command(node, _Building()))
        elif kind == "redirected_statement":
            self._redirected(node)
        elif kind == "for_statement":
            self._loop(node)
        elif kind in ("case_statement", "case_item"):
            self._case(node)
        elif kind == "test_command":
            self._test(node)
        elif kind == "comment":
            self._comment(node)
        elif kind in ("file_redirect", "herestring_redirect", "heredoc_redirect"):
            building = into or _Building()
            self._redirect(node, building)
            if into is None:
                self._finish_apart(node, building)
        else:
            self._unknown(node)

    def _unknown(self, node: Node) -> None:
        """Leave a doubt, and list the commands inside all the same: one of them may be denied."""
        self._doubt(node)
        for child in node.named_children:
            self._statement(child)

    def _container(self, node: Node) -> None:
        if node.type in ("command_substitution", "process_substitution") and is_odd_substitution(self._text(node)):
            self._doubt(node)
        for child in node.children:
            if child.is_named:
                self._statement(child)
            elif self._text(child).strip(" \t") not in _SEPARATORS:
                self._doubt(child)

    def _finish(self, building: _Building) -> None:
        if building.words or building.assigned or building.redirections:
            self.commands.append(building.done())

    def _redirected(self, node: Node) -> None:
        """A command with what is redirected after it; what is redirected of a group counts as a command of its own."""
        building = _Building()
        for child in node.children:
            if child.type in _COMMANDS:
                self._check_one_line(child)
                self._command(child, building)
            else:
                self._statement(child, building)
        if any(child.type in _COMMANDS for child in node.children):
            self._finish(building)
        else:
            self._finish_apart(node, building)

    def _finish_apart(self, node: Node, building: _Building) -> None:
        """What is redirected away from its command; words that follow it are that command's, whichever it is."""
        if building.words:
            self._doubt(node)
        self._finish(building)

    def _loop(self, node: Node) -> None:
        building = _Building()
        for child in node.children:
            if child.type == "variable_name":
                building.assigned.append(self._text(child))
            elif child.type in _LITERALS:
                self._word(child)
            elif child.is_named:
                self._statement(child)
            elif self._text(child).strip() == "select" or self._text(child).startswith("(("):
                self._doubt(child)
        self._finish(building)

    def _case(self, node: Node) -> None:
        for child in node.children:
            if child.type in _LITERALS:
                self._word(child)
            elif child.is_named:
                self._statement(child)
            elif child.type not in (";;", *_SEPARATORS):
                self._doubt(child)

    def _test(self, node: Node) -> None:
        if node.children[0].type != "[":
            self._unknown(node)
            return
        building = _Building()
        self._operands(node, building)
        self._finish(building)

    def _operands(self, node: Node, building: _Building) -> None:
        for child in node.children:
            text = self._text(child)
            if child.type in _LITERALS:
                building.words.append(self._word(child))
            elif child.child_count:
                self._operands(child, building)
            elif re.search(r"[<>()&|;`$]", text):
                self._doubt(child)
            else:
                self._take_place(child)
                building.words.append(Word(text.strip(), text.strip()))

    def _comment(self, node: Node) -> None:
        if node.start_byte and self._source[node.start_byte - 1] not in b" \t\n;&|()":
            self._doubt(node)

    # Commands

    def _command(self, node: Node, building: _Building) -> _Building:
        if node.type == "variable_assignment":
            self._assignment(node, building)
            return building
        for child in node.children:
            self._part(child, building)
        return building

    def _part(self, node: Node, building: _Building) -> None:
        if node.type == "command_name":
            building.words.append(self._word(node.children[0]) if node.child_count == 1 else self._odd_word(node))
        elif node.type == "variable_assignment":
            if building.words:  # an argument of `export` and its like
                building.words.append(Word(None, self._text(node)))
            self._assignment(node, building)
        elif node.type in _LITERALS:
            building.words.append(self._word(node))
        elif "redirect" in node.type:
            self._statement(node, building)
        elif not node.is_named and re.fullmatch(r"[a-z]+", self._text(node)):
            building.words.append(Word(self._text(node), self._text(node)))  # `export`, `unset`, ...
        else:
            self._unknown(node)

    def _assignment(self, node: Node, building: _Building) -> None:
        for child in node.children:
            if child.type == "variable_name":
                building.assigned.append(self._text(child))
            elif child.type in _LITERALS:
                self._word(child)
            elif self._text(child) not in ("=", "+="):
                self._unknown(child)

    def _redirect(self, node: Node, building: _Building) -> None:
        if node.type == "heredoc_redirect":
            self._heredoc(node, building)
            return
        operator, targets = "", []
        for child in node.children:
            if child.type in _LITERALS:
                targets.append(self._word(child))
            elif child.type != "file_descriptor":
                operator += self._text(child).strip()
            elif not re.fullmatch(r"[0-9]+", self._text(child)):
                self._doubt(child)
        if operator in ("<<<", ">&-", "<&-"):
            # A here-string is its one word; what follows a closed descriptor are words of the command.
            building.words += targets[1:] if operator == "<<<" else targets
            return
        if operator not in (">", ">>", ">|", "&>", "&>>", ">&", "<", "<&") or not targets:
            self._unknown(node)
            return
        if operator == ">&" and not re.fullmatch(r"[\w./-]+", targets[0].source):
            self._doubt(node)  # bash expands what it has expanded once more
        building.redirections.append(Redirection(operator, targets[0]))
        # The grammar takes all words up to the next sign for targets; to bash the first is, the others are arguments.
        building.words += targets[1:]

    def _heredoc(self, node: Node, building: _Building) -> None:
        if not heredoc_is_sure(self._source, node):
            self._doubt(node)
        for child in node.children:
            if child.type in ("heredoc_start", "heredoc_end"):
                continue
            if child.type == "heredoc_body":
                for part in child.named_children:
                    if part.type in _LITERALS:
                        self._piece(part)
            elif child.type in _LITERALS:
                building.words.append(self._word(child))
            elif child.is_named:
                self._statement(child, building)
            elif child.type not in ("<<", "<<-", *_SEPARATORS):
                self._doubt(child)
