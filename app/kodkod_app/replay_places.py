"""The place of a replay's copy instead of the recorded one, in what a model wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kodkod_engine.chat.tokenizer import Tokenizer


class Replacement:
    """Puts one place for another in what the model wrote, and leaves every other token as it is."""

    def __init__(self, places: Mapping[str, str], tokenizer: Tokenizer) -> None:
        self._places = places
        self._tokenizer = tokenizer

    def and_also(self, places: Mapping[str, str]) -> Replacement:
        """These and more, which come first."""
        return Replacement({**places, **self._places}, self._tokenizer)

    def in_ids(self, ids: Sequence[int]) -> list[int]:
        """Text between control tokens is written anew only where a place is in it."""
        found: list[int] = []
        text: list[int] = []
        for token_id in [*ids, None]:
            if token_id is not None and token_id not in self._tokenizer.control_ids:
                text.append(token_id)
                continue
            found += self._in_text(text)
            text = []
            if token_id is not None:
                found.append(token_id)
        return found

    def _in_text(self, ids: list[int]) -> list[int]:
        before = after = self._tokenizer.decode(ids)
        for old, new in self._places.items():
            after = after.replace(old, new)
        return ids if before == after else self._tokenizer.encode_text(after)
