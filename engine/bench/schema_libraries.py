"""llguidance against xgrammar: what holding a JSON value to its schema costs, on one vocabulary and the same values.

    python engine/bench/schema_libraries.py --tokenizer FILE

Needs xgrammar, which is no dependency (`pip install xgrammar`). Times are processor seconds of the thread; each schema
is compiled anew, each value is walked once token by token, and each mask is asked for once.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import xgrammar
from constraints import percentiles
from llguidance import LLMatcher, LLTokenizer
from measure import keep

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.constraints.json_values import _Tokens

ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "kind": {"enum": ["file", "folder", "link"]},
        "lines": {"type": "array", "items": {"type": "integer", "minimum": 1}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["name", "kind", "lines"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, tuple[dict[str, Any], Any]] = {
    "integer in a range": ({"type": "integer", "minimum": 1, "maximum": 4321}, 1234),
    "boolean": ({"type": "boolean"}, True),
    "strings": ({"type": "array", "items": {"type": "string"}}, [f"tests/test_{n}.py::test_add" for n in range(20)]),
    "objects": (
        {"type": "array", "items": ITEM},
        [{"name": f"src/mod_{n}.py", "kind": "file", "lines": [n, 2 * n], "note": "é, \"so\""} for n in range(1, 20)],
    ),
}  # fmt: skip


class Guidance:
    """llguidance."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokens = LLTokenizer(_Tokens(tokenizer))

    def matcher(self, schema: str) -> tuple[Callable[[], object], Callable[[int], object]]:
        """Asks for a mask, and takes a token."""
        options = {"whitespace_flexible": False}
        matcher = LLMatcher(self._tokens, LLMatcher.grammar_from_json_schema(schema, overrides=options), log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        return matcher.compute_bitmask, matcher.consume_token


class XGrammar:
    """xgrammar, with one thread and nothing kept between schemas."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        words = [tokenizer.bytes_of(token_id) for token_id in range(tokenizer.vocab_size)]
        self._info = xgrammar.TokenizerInfo(words, xgrammar.VocabType.RAW, stop_token_ids=[tokenizer.eos_id])
        self._mask = xgrammar.allocate_token_bitmask(1, tokenizer.vocab_size)

    def matcher(self, schema: str) -> tuple[Callable[[], object], Callable[[int], object]]:
        """Asks for a mask, and takes a token."""
        compiler = xgrammar.GrammarCompiler(self._info, max_threads=1, cache_enabled=False)
        compiled = compiler.compile_json_schema(schema, any_whitespace=False)
        matcher = xgrammar.GrammarMatcher(compiled)
        return lambda: matcher.fill_next_token_bitmask(self._mask), matcher.accept_token


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    before = time.thread_time()
    result = work()
    return result, time.thread_time() - before


def written(value: Any, library: type) -> str:
    """JSON without spaces: both libraries are told to, each in its own way."""
    separators = (", ", ": ") if library is XGrammar else (",", ":")
    return json.dumps(value, ensure_ascii=False, separators=separators)


def measured(tokenizer: Tokenizer, library: type) -> dict[str, Any]:
    made, setup_s = timed(lambda: library(tokenizer))
    compiling: dict[str, float] = {}
    masks: list[float] = []
    for name, (schema, value) in SCHEMAS.items():
        text = json.dumps(schema)
        (ask, take), compiling[name] = min(
            (timed(lambda t=text: made.matcher(t)) for _ in range(5)), key=lambda one: one[1]
        )
        masks += list(walk(ask, take, tokenizer.encode_text(written(value, library))))
    return {
        "tokenizer_s": setup_s,
        "compile_ms": {k: 1e3 * s for k, s in compiling.items()},
        "mask_us": percentiles(masks),
        "masks": len(masks),
    }


def walk(ask: Callable[[], object], take: Callable[[int], object], ids: list[int]) -> Iterator[float]:
    """Microseconds of each mask."""
    for token_id in ids:
        _, seconds = timed(ask)
        yield 1e6 * seconds
        assert take(token_id), "the value is refused"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="as engine/bench/constraints.py makes one")
    options = parser.parse_args()
    tokenizer = Tokenizer(options.tokenizer.read_text(encoding="utf-8"))
    libraries = (("llguidance", Guidance), ("xgrammar", XGrammar))
    record = {"vocabulary": tokenizer.vocab_size, **{name: measured(tokenizer, library) for name, library in libraries}}
    print(json.dumps(record, indent=1))
    print(f"kept in {keep('schema-libraries', record).name}")


if __name__ == "__main__":
    main()
