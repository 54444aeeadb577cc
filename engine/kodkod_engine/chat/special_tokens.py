"""LongCat's special tokens: their names, and their ids in one vocabulary.

Ids differ between checkpoints, so they are looked up by name when a tokenizer is loaded. A tag that a vocabulary does
not hold as one token is written as ordinary text and matched on text, except for the few no conversation can do
without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from kodkod_engine.errors import CheckpointCorrupt


class Tag(StrEnum):
    """A special token by name. Its value is the text a tokenizer knows it by."""

    BOS = "<longcat_s>"
    EOS = "</longcat_s>"
    PAD = "<longcat_pad>"
    SYSTEM = "<longcat_system>"
    USER = "<longcat_user>"
    ASSISTANT = "<longcat_assistant>"
    TOOL_DECLARE = "<longcat_tool_declare>"
    TOOL_DECLARE_END = "</longcat_tool_declare>"
    TOOL_CALL = "<longcat_tool_call>"
    TOOL_CALL_END = "</longcat_tool_call>"
    ARG_KEY = "<longcat_arg_key>"
    ARG_KEY_END = "</longcat_arg_key>"
    ARG_VALUE = "<longcat_arg_value>"
    ARG_VALUE_END = "</longcat_arg_value>"
    TOOL_RESPONSE = "<longcat_tool_response>"
    TOOL_RESPONSE_END = "</longcat_tool_response>"
    THINK = "<longcat_think>"
    THINK_END = "</longcat_think>"
    FILES = "<longcat_files>"
    FILES_END = "</longcat_files>"


Piece = Tag | str
"""A control token, or text that is data. `Tag` is a `str`: joined pieces are the text of the template."""

ESSENTIAL = (Tag.EOS, Tag.SYSTEM, Tag.USER, Tag.ASSISTANT)
"""Tags that must be single tokens: without them no turn begins or ends."""


@dataclass(frozen=True)
class SpecialTokens:
    """The tags one vocabulary holds as single tokens."""

    ids: Mapping[Tag, int]
    tags: Mapping[int, Tag] = field(init=False)
    """The same table, by id."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", MappingProxyType(dict(self.ids)))
        object.__setattr__(self, "tags", MappingProxyType({token_id: tag for tag, token_id in self.ids.items()}))

    @classmethod
    def resolve(cls, single_token_id: Callable[[str], int | None]) -> SpecialTokens:
        """Look every tag up by name.

        Args:
            single_token_id: the id a text is encoded to when it is exactly one token, else None.

        Raises:
            CheckpointCorrupt: a tag of `ESSENTIAL` is missing or is not a single token.
        """
        found = {tag: single_token_id(tag.value) for tag in Tag}
        missing = [tag.value for tag in ESSENTIAL if found[tag] is None]
        if missing:
            raise CheckpointCorrupt(
                f"the tokenizer has no single token {', '.join(missing)}; use a LongCat tokenizer.json"
            )
        return cls({tag: token_id for tag, token_id in found.items() if token_id is not None})

    def id_of(self, tag: Tag) -> int | None:
        """The tag's id; None when it must be written and matched as text."""
        return self.ids.get(tag)

    @property
    def text_tags(self) -> frozenset[Tag]:
        """Tags that are not single tokens."""
        return frozenset(Tag) - self.ids.keys()

    @property
    def eos_id(self) -> int:
        """Ends an assistant turn; the stop token."""
        return self.ids[Tag.EOS]

    @property
    def system_id(self) -> int:
        """Opens a system entry."""
        return self.ids[Tag.SYSTEM]

    @property
    def user_id(self) -> int:
        """Opens a user entry and a run of tool results."""
        return self.ids[Tag.USER]

    @property
    def assistant_id(self) -> int:
        """Opens an assistant turn; alone it is the generation prompt."""
        return self.ids[Tag.ASSISTANT]
