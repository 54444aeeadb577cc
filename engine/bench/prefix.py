"""What a second turn costs: 20 new tokens on a prefix of 2,000, against the cold prefill of all of them.

python engine/bench/prefix.py
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from latency import CONFIG, Prompts, complete
from measure import keep, summary

from kodkod_engine import load_engine
from kodkod_engine.models.random_checkpoint import write_random_checkpoint

PREFIX_TOKENS = 2000
NEW_TOKENS = 20
REPEATS = 3


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_random_checkpoint(folder, CONFIG, dtype=torch.bfloat16, with_mtp=False)
        engine = load_engine(folder, device="cpu")
        try:
            prompts = Prompts()
            complete(engine, prompts.take(1, PREFIX_TOKENS), 1)
            cold: list[float] = []
            warm: list[float] = []
            for _ in range(REPEATS):
                whole = prompts.take(1, PREFIX_TOKENS + NEW_TOKENS)[0]
                prefix = complete(engine, [whole[:PREFIX_TOKENS]], 1)[0].usage
                turn = complete(engine, [whole], 1)[0].usage
                assert turn.computed_tokens == NEW_TOKENS, turn
                cold.append(prefix.prefill_s * (PREFIX_TOKENS + NEW_TOKENS) / PREFIX_TOKENS)
                warm.append(turn.prefill_s)
        finally:
            engine.close()
    record = {
        "what": f"{NEW_TOKENS} new tokens on {PREFIX_TOKENS}; same model as the latency benchmark",
        "cold_s": summary(cold),
        "second_turn_s": summary(warm),
        "repeats": REPEATS,
        "computed_tokens": NEW_TOKENS,
        "share": summary(warm)["median"] / summary(cold)["median"],
    }
    print(f"cold {record['cold_s']['median']:.3f} s, second turn {record['second_turn_s']['median']:.3f} s", end=", ")
    print(f"{record['share']:.1%} of cold; {NEW_TOKENS} tokens computed; kept in {keep('prefix', record).name}")


if __name__ == "__main__":
    main()
