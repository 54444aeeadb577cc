"""What FP8, 8 and 4 bits change: against bf16 on the bundled model over code, and on random layers of published width.

    python engine/bench/accuracy.py [--no-layers]

For each precision: mean absolute difference of log-probabilities (of the bf16 model's own best token, and of the text's
token), how often the best token is the same, and perplexity. Random layers are compared by relative error of what
comes out, expert by expert and dense network by dense network.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path
from typing import Any

import torch
from full_size import CONFIG
from measure import keep
from torch import Tensor

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import TokenRun
from kodkod_engine.layers.feed_forward import swiglu
from kodkod_engine.layers.packed import PackedParameter, Precision, Precisions
from kodkod_engine.models.loading import load_model
from kodkod_engine.nano import folder as nano_folder

WINDOW, WINDOWS = 256, 16
PARTS = ("experts", "attention", "dense", "head")
ALONE = (Precision.FP8, Precision.INT4)


def logprobs(precisions: Precisions | None, texts: list[list[int]]) -> Tensor:
    """fp32 [tokens, vocab] over all windows."""
    runner = ModelRunner(load_model(nano_folder(), precisions=precisions), WINDOW // 16 + 1, 16)
    blocks = tuple(range(WINDOW // 16 + 1))
    rows = [runner.logits([TokenRun("text", tuple(ids), (), 0, blocks, None)])[0] for ids in texts]
    return torch.cat(rows).log_softmax(dim=-1)


def compare(base: Tensor, other: Tensor, targets: Tensor) -> dict[str, float]:
    best = base.argmax(dim=-1, keepdim=True)
    own, text = other.gather(1, best), other.gather(1, targets[:, None])
    return {
        "mean_abs_logprob_difference_best": float((own - base.gather(1, best)).abs().mean()),
        "mean_abs_logprob_difference_text": float((text - base.gather(1, targets[:, None])).abs().mean()),
        "top1_agreement": float((other.argmax(dim=-1) == best[:, 0]).float().mean()),
        "perplexity": float((-text).mean().exp()),
        "kl": float((base.exp() * (base - other)).sum(dim=-1).mean()),
    }


def on_nano() -> dict[str, Any]:
    tokenizer = Tokenizer.from_folder(nano_folder())
    root = Path(sysconfig.get_paths()["stdlib"])
    ids: list[int] = []
    for file in sorted(root.glob("*.py")):
        ids += tokenizer.encode_text(file.read_text(encoding="utf-8", errors="ignore"))
        if len(ids) > WINDOW * WINDOWS * 4:
            break
    texts = [ids[start : start + WINDOW] for start in range(0, 4 * WINDOW * WINDOWS, 4 * WINDOW)]
    targets = torch.tensor([token for text in texts for token in [*text[1:], text[-1]]])
    base = logprobs(None, texts)
    wanted = {name: Precisions.of(name) for name in ("fp8", "int8", "int4")}
    wanted |= {f"{kind} {part} alone": Precisions(**{part: kind}) for kind in ALONE for part in PARTS}
    found = {name: compare(base, logprobs(precisions, texts), targets) for name, precisions in wanted.items()}
    return {"tokens": len(targets), "bf16": compare(base, base, targets), **found}


def on_layers() -> dict[str, Any]:
    """Random networks at published widths: relative error of the output, and of single weights."""
    hidden, found = CONFIG["hidden_size"], {}
    generator = torch.Generator().manual_seed(0)
    for name, width in (("expert", CONFIG["expert_ffn_hidden_size"]), ("dense network", CONFIG["ffn_hidden_size"])):
        gate_up = torch.randn(2 * width, hidden, generator=generator) / hidden**0.5
        down = torch.randn(hidden, width, generator=generator) / width**0.5
        x = torch.randn(64, hidden, generator=generator)
        wanted = swiglu(x @ gate_up.t()) @ down.t()
        for precision in (Precision.FP8, Precision.INT8, Precision.INT4):
            first, second = (_kept(weight, precision) for weight in (gate_up, down))
            got = swiglu(x @ first.t()) @ second.t()
            found[f"{name}, {precision}"] = {
                "output_error": float((got - wanted).norm() / wanted.norm()),
                "weight_error": float((first - gate_up).norm() / gate_up.norm()),
            }
    return found


def _kept(values: Tensor, precision: Precision) -> Tensor:
    """What is left of a matrix."""
    matrix = PackedParameter(tuple(values.shape), precision).matrix
    matrix.copy_(values)
    return matrix.unpacked()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-layers", action="store_true")
    without = parser.parse_args().no_layers
    record: dict[str, Any] = {"nano": on_nano()} | ({} if without else {"random_layers": on_layers()})
    for part, rows in record.items():
        for name, row in rows.items():
            print(part, name, row)
    print(f"kept in {keep('accuracy', record).name}")


if __name__ == "__main__":
    main()
