"""Functions of the corpus as they stand, for language modelling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from kodkod_app.nano import corpus
from kodkod_app.nano.corpus import CorpusPackage
from kodkod_engine.chat.tokenizer import Tokenizer

MAX_TOKENS = 512
"""Of a document; longer functions are cut."""


def documents(
    packages: Sequence[CorpusPackage], wheels: Mapping[str, Path], tokenizer: Tokenizer, share: int, seed: int
) -> Iterator[list[int]]:
    """Token ids of functions, drawn at random until each package has given its share, the packages mixed.

    Args:
        packages: of the corpus.
        wheels: theirs, by name.
        tokenizer: the model's.
        share: tokens of each package, about.
        seed: of the draws.
    """
    rng, found = Random(seed), list[list[int]]()
    for package in packages:
        texts = [module.text(one) for module in corpus.modules(package.name, wheels[package.name], set())
                 for one in module.functions]  # fmt: skip
        rng.shuffle(texts)
        found += _within(texts, tokenizer, share)
    rng.shuffle(found)
    yield from found


def _within(texts: Sequence[str], tokenizer: Tokenizer, share: int) -> Iterator[list[int]]:
    total = 0
    for text in texts:
        if total >= share:
            return
        ids = tokenizer.encode_text(text)[:MAX_TOKENS]
        total += len(ids)
        if len(ids) > 1:
            yield ids
