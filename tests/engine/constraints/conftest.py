"""Vocabularies of two kinds: a token per byte, and merged ones of which some end inside of a character."""

from __future__ import annotations

import pytest
import tokenizers

from kodkod_engine.chat.byte_tokenizer import NAMED, write_byte_tokenizer
from kodkod_engine.chat.tokenizer import Tokenizer

CORPUS = (
    "def add(first, second):\n    return first + second\n",
    "    if first <= second and not second:\n        raise ValueError(second)\n",
    "test view edit git finish path start end line old new summary pkg/mod.py pkg/model.py\n",
    "Grüße, 你好 世界, naïve café — ¿qué? 👩‍💻 mañana 漢字かな交じり文\n",
) * 4


@pytest.fixture(scope="session")
def byte_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token per byte."""
    folder = tmp_path_factory.mktemp("bytes")
    write_byte_tokenizer(folder)
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="session")
def merging_tokenizer() -> Tokenizer:
    """A small byte-pair vocabulary."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(NAMED),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return Tokenizer(backend.to_str())


@pytest.fixture(scope="session", params=["byte", "merging"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Each in turn."""
    found = request.getfixturevalue(f"{request.param}_tokenizer")
    assert isinstance(found, Tokenizer)
    return found
