"""nano's vocabulary: byte-level pairs learnt from code, every number of up to three digits whole, LongCat's tags.

Merges stay inside the pre-tokens of `spans`, and inside names digits stay apart from letters. So a run of whole
pre-tokens has the same ids by itself, in its line, and in a line of a numbered view.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from kodkod_app.nano.corpus import Module
from kodkod_app.nano.spans import PRE_TOKEN
from kodkod_engine.chat.byte_level import CHARACTERS
from kodkod_engine.chat.byte_tokenizer import NAMED
from kodkod_engine.chat.tokenizer_files import BYTE_LEVEL, as_text, special_entries, write_tokenizer

VOCABULARY_SIZE = 8_192
DIGIT_GROUPS = r"[0-9]{1,3}(?=(?:[0-9]{3})*(?![0-9]))"
"""By threes from the right."""
NUMBER_BAR = r"(?<=[0-9])\|"
"""The bar of a numbered view must not join the line behind it."""
_MAX_TOKEN_CHARS = 24
_DIGITS = "0123456789"

DIALOGUE_WORDS = """\
These tests fail. Mend the code, not the tests, so that they pass:

test
locate
true
FAILED tests/test_parse.py::TestParse::test_parse
ERROR tests/test_parse.py::test_parse
package/module.py:45 in parse: return x
  AssertionError: assert 1 == 2
  TypeError: unsupported operand type
  AttributeError: object has no attribute
  NameError: name is not defined
  ValueError: not enough values to unpack
  KeyError: IndexError: list index out of range
  ZeroDivisionError RecursionError UnboundLocalError StopIteration RuntimeError NotImplementedError
  +  where  =
  At index diff:
  Left contains one more item:
  - + ?

Run by the failing tests, most suspicious first:
package/module.py:40-58 parse: 45 46 50 51

1 failed, 3 passed, 2 skipped, 4 errors in 0.3 s [exit code 1]
view
path
start
end
package/module.py, lines 40-58 of 1,234
[1,176 more lines: view with start=59]
edit
line
old
new
edited package/module.py
git
action
restore
restored package/module.py from HEAD: package/module.py
finish
summary
The failing tests pass now.
finished
"""


def code_texts(modules: Iterable[Module]) -> Iterator[str]:
    """Every other function of the modules: enough to learn from."""
    functions = (module.text(function) + "\n" for module in modules for function in module.functions)
    return islice(functions, 0, None, 2)


def train(texts: Iterable[str], *, times: int = 3_000) -> str:
    """The text of a `tokenizer.json` of `VOCABULARY_SIZE` entries.

    Args:
        texts: the code to learn from. Equal texts give an equal vocabulary.
        times: how often the words of the dialogue are counted, which are rare in code.

    Raises:
        ValueError: the texts are too few for so many entries.
    """
    known = [*NAMED, *CHARACTERS, *_number_tokens()]
    merges = _learnt_merges(chain([DIALOGUE_WORDS * times], texts), VOCABULARY_SIZE - len(known))
    if len(known) + len(merges) != VOCABULARY_SIZE:
        raise ValueError(f"the texts give {len(merges)} merges only; learn from more of them")
    vocabulary = {token: token_id for token_id, token in enumerate([*known, *map("".join, merges)])}
    return as_text(_description(vocabulary, [*_number_merges(), *merges]))


def write(description: str, folder: Path) -> None:
    """Put `tokenizer.json` and `tokenizer_config.json` into a checkpoint's folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, description)


def _number_merges() -> list[tuple[str, str]]:
    """Two digits first, then a third on either side of them: with these, any three digits become one token."""
    pairs = [(first, second) for first in _DIGITS for second in _DIGITS]
    behind = [(first + second, third) for first, second in pairs for third in _DIGITS]
    before = [(third, first + second) for third in _DIGITS for first, second in pairs]
    return pairs + behind + before


def _number_tokens() -> list[str]:
    """`00` to `99`, `000` to `999`; single digits are bytes."""
    return list(dict.fromkeys(map("".join, _number_merges())))


def _learnt_merges(texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """The most useful merges that no digit takes part in."""
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = _pre_tokenizer(digits="[0-9]")
    trainer = BpeTrainer(
        vocab_size=len(CHARACTERS) + count,
        min_frequency=2,
        initial_alphabet=list(CHARACTERS),
        max_token_length=_MAX_TOKEN_CHARS,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(first, second) for first, second in merges]


def _pre_tokenizer(digits: str = DIGIT_GROUPS) -> Sequence:
    return Sequence(
        [
            Split(Regex(NUMBER_BAR), "isolated"),
            Split(Regex(PRE_TOKEN), "isolated"),
            Split(Regex(digits), "isolated"),
            ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )


def _description(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> dict[str, Any]:
    shell = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    shell.pre_tokenizer = _pre_tokenizer()
    fields: dict[str, Any] = json.loads(shell.to_str())
    fields["decoder"] = BYTE_LEVEL
    fields["added_tokens"] = special_entries(NAMED)
    return fields
