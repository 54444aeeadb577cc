"""The experts of one layer at full width, evenly chosen, on each of their roads.

    python engine/bench/experts.py [--precision int4] [--tokens 9 16 32 64 128 256]

Milliseconds of turns, median: a matrix at a time, unpacked in registers, and unpacked in cache for tiles of sixteen
tokens; beside what reading the experts hit takes at the best rate of the same run. Codes are random.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from full_size import CONFIG
from measure import keep, read_bandwidth, seconds
from torch import Tensor

from kodkod_engine.kernels.expert_rows import Weight, as_rows, expert_rows
from kodkod_engine.kernels.packed_linear import packed_arrays
from kodkod_engine.kernels.thin_experts import takes_thin_experts, thin_experts
from kodkod_engine.layers.moe import MixtureOfExperts, PackedExperts
from kodkod_engine.layers.packed import PackedMatrix, Precision, Slot
from kodkod_engine.models.config import load_config

TURNS = 5
TOKENS = [9, 16, 32, 64, 128, 256]


def random_experts(precision: Precision) -> MixtureOfExperts:
    with TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
        config = load_config(folder)
    with torch.device("meta"):
        plain = MixtureOfExperts(config)
    if precision is Precision.BF16:
        plain.to_empty(device="cpu").bfloat16()
        for weight in (plain.gate_up, plain.down):
            weight.normal_(std=0.02)
        return plain
    experts = PackedExperts(plain, precision)
    for home in experts.homes:
        fill(home)
    return experts


def fill(home: PackedMatrix) -> None:
    """Every code but the two for NaN, in scales that keep the variance of an input of 3,072 values or so."""
    home.codes.view(torch.uint8).random_(0, 256)
    if home.is_fp8:
        codes = home.codes.view(torch.uint8)
        codes[(codes & 0x7F) == 0x7F] = 0
    home.scales.fill_(3e-3 if home.bits == 4 else 2e-4)


def routed(tokens: int) -> tuple[Tensor, Tensor]:
    """Evenly: ids int64 [tokens, 12] and weights."""
    k, choices = CONFIG["moe_topk"], CONFIG["n_routed_experts"] + CONFIG["zero_expert_num"]
    return torch.rand(tokens, choices).argsort(dim=1)[:, :k].contiguous(), torch.full((tokens, k), 1 / k)


def milliseconds(experts: MixtureOfExperts, tokens: int) -> dict[str, float]:
    x, (chosen, weights) = torch.randn(tokens, CONFIG["hidden_size"]), routed(tokens)
    arrays = [kernels_own(home) for home in experts.homes]
    roads = {
        "a matrix at a time": lambda: experts._by_expert(x, chosen, weights),
        "in tiles": lambda: expert_rows(x, *arrays, chosen, weights),
    }
    if takes_thin_experts(*map(as_rows, arrays)):
        roads["in registers"] = lambda: thin_experts(x, *arrays, chosen, weights)
    for road in roads.values():
        road()
    turns = [{name: seconds(road) for name, road in roads.items()} for _ in range(TURNS)]
    return {name: 1e3 * statistics.median(turn[name] for turn in turns) for name in roads} | {
        "bytes hit": hit_bytes(experts, chosen)
    }


def kernels_own(home: Slot) -> Weight:
    return home if isinstance(home, Tensor) else packed_arrays(home.codes, home.scales, home.bits, home.row_block)


def hit_bytes(experts: MixtureOfExperts, chosen: Tensor) -> float:
    hit = int((chosen.unique() < experts.num_experts).sum())
    return hit * sum(home.nbytes for home in experts.homes) / experts.num_experts


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["int4", "int8", "fp8", "bf16"], default="int4")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    options = parser.parse_args()
    torch.manual_seed(0)
    rates, experts = [read_bandwidth()], random_experts(Precision(options.precision))
    steps: dict[int, dict[str, Any]] = {}
    for tokens in options.tokens:
        steps[tokens] = milliseconds(experts, tokens)
        print(tokens, {name: round(value, 1) for name, value in steps[tokens].items()}, flush=True)
    rates.append(read_bandwidth())
    for tokens, step in steps.items():
        step["reading"] = 1e3 * step.pop("bytes hit") / max(rates)
        print(f"{tokens} tokens: reading takes {step['reading']:.1f} ms at {max(rates) / 1e9:.0f} GB/s")
    record = {"what": f"experts of one layer, {options.precision}", "read_bytes_per_s": rates, "milliseconds": steps}
    print(f"kept in {keep(f'experts-{options.precision}', record).name}")


if __name__ == "__main__":
    main()
