"""Generated ids to pieces: tags, and the text between them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from kodkod_engine.chat.special_tokens import Piece, Tag
from kodkod_engine.chat.stop_strings import partial_length
from kodkod_engine.chat.tokenizer import Tokenizer


class Lexer:
    """Incremental, for one sequence. Any chunking of the ids gives the same tags and the same joined text.

    A tag that is one token is known by its id alone, so text that merely spells it stays text. Only tags the
    vocabulary lacks are looked for in the text; text that may be the start of one is held back.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tags = tokenizer.special.tags
        self._stream = tokenizer.stream(skip_special=False)
        self._text_tags = tuple(sorted(tokenizer.special.text_tags))
        self._pattern = re.compile("|".join(map(re.escape, self._text_tags)))
        self._held = ""

    def push(self, ids: Iterable[int]) -> Iterator[Piece]:
        """Pieces that became certain with these ids; text is never empty."""
        run: list[int] = []
        for token_id in ids:
            tag = self._tags.get(token_id)
            if tag is None:
                run.append(token_id)
                continue
            yield from self._scan(self._stream.push(run))
            run = []
            yield from self.flush()
            yield tag
        yield from self._scan(self._stream.push(run))

    def flush(self) -> Iterator[Piece]:
        """What is held back, when nothing can complete it any more."""
        yield from self._scan(self._stream.flush())
        held, self._held = self._held, ""
        if held:
            yield held

    def _scan(self, text: str) -> Iterator[Piece]:
        if not self._text_tags:
            if text:
                yield text
            return
        self._held += text
        while match := self._pattern.search(self._held):
            if match.start():
                yield self._held[: match.start()]
            yield Tag(match[0])
            self._held = self._held[match.end() :]
        cut = len(self._held) - partial_length(self._held, self._text_tags)
        certain, self._held = self._held[:cut], self._held[cut:]
        if certain:
            yield certain
