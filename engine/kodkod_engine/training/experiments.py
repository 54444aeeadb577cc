"""The paper's findings in miniature (arXiv 2601.21204): `python -m kodkod_engine.training.experiments NAME SHARD -o D`.

    collisions      2-grams that share a row, by table size around whole multiples of the vocabulary
    tables          N-gram tables against experts with as many parameters, at two sparsities
    amplification   the input embedding amplified or plain: loss, and the size of what flows through the layers

Each writes a JSON record with its setting and seeds, and a picture. The models have a width of 96 and two dual layers,
and see a few hundred thousand tokens: what they show is a direction, not the paper's size of effect.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch

from kodkod_engine.training.batches import Mixture, Source
from kodkod_engine.training.evaluation import evaluate
from kodkod_engine.training.options import TrainOptions
from kodkod_engine.training.shards import read_shard
from kodkod_engine.training.trainer import Trainer

Record = dict[str, Any]

_NANO = Path(__file__).with_name("nano.json")
SMALL: Record = {
    "hidden_size": 96, "num_layers": 2, "num_attention_heads": 3, "q_lora_rank": 48, "kv_lora_rank": 32,
    "ffn_hidden_size": 192, "expert_ffn_hidden_size": 48, "zero_expert_num": 2, "moe_topk": 2,
    "emb_neighbor_num": 3, "emb_split_num": 2, "ngram_vocab_size_ratio": 1.37,
}  # fmt: skip
"""What differs from nano's config."""
SPARSITIES = {"few experts": 4, "many experts": 40}
"""Real experts of a layer beside the tables."""
HELD_OUT_DOCUMENTS = 60
"""The shard's last ones, which nothing is learnt from."""


# Collisions


def colliding(pairs: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], vocab_size: int, rows: int) -> Record:
    """How often 2-grams share a row, as multiples of what rows drawn at random give.

    Args:
        pairs: int64 [n, 2], a token and the one before it, each pair once.
        counts: int64 [n], how often each occurs.
        vocab_size: the factor of the one before, as in `models.ngram_spec`.
        rows: of the table.

    Returns:
        `distinct`: of two different 2-grams; `occurring`: of two different ones as they occur; `used`: the rows' share
        that any 2-gram has.
    """
    ids = (pairs[:, 0] + pairs[:, 1] * (vocab_size % rows)) % rows
    distinct = np.bincount(ids, minlength=rows).astype(np.float64)
    occurring = np.bincount(ids, weights=counts, minlength=rows)
    number, total, own = float(len(pairs)), float(counts.sum()), float((counts.astype(np.float64) ** 2).sum())
    return {
        "distinct": float((distinct * (distinct - 1)).sum() / (number * (number - 1)) * rows),
        "occurring": float(((occurring**2).sum() - own) / (total**2 - own) * rows),
        "used": float((distinct > 0).mean()),
    }


def distinct_pairs(shard: Path, vocab_size: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The 2-grams of a shard's documents, each once, int64 [n, 2]; and how often each occurs."""
    found = read_shard(shard, vocab_size=vocab_size)
    tokens = found.tokens.astype(np.int64)
    begins = np.zeros(len(tokens), bool)
    begins[found.starts[:-1]] = True
    keys, counts = np.unique((tokens[1:] + vocab_size * tokens[:-1])[~begins[1:]], return_counts=True)
    return np.stack([keys % vocab_size, keys // vocab_size], axis=1), counts


def collision_sweep(shard: Path, vocab_size: int) -> Record:
    """Around 2, 3, 4 and 8 times the vocabulary, and in between."""
    pairs, counts = distinct_pairs(shard, vocab_size)
    offsets = (-256, -64, -16, -4, -1, 0, 1, 4, 16, 64, 256)
    sizes = {int(vocab_size * ratio) for ratio in np.arange(1.05, 9, 0.11)}
    sizes |= {multiple * vocab_size + offset for multiple in (2, 3, 4, 8) for offset in offsets}
    points = [
        {"rows": rows, "ratio": rows / vocab_size, **colliding(pairs, counts, vocab_size, rows)}
        for rows in sorted(sizes)
    ]
    return {"distinct 2-grams": len(pairs), "vocabulary": vocab_size, "points": points}


# Training


def small_config(**changed: object) -> Record:
    """A config.json of the experiments' size; a ratio of 0 is a model without tables."""
    config = {**json.loads(_NANO.read_text(encoding="utf-8")), **SMALL, **changed}
    if not config["ngram_vocab_size_ratio"]:
        config["architectures"] = ["LongcatFlashForCausalLM"]
        for name in ("ngram_vocab_size_ratio", "emb_neighbor_num", "emb_split_num"):
            del config[name]
    return config


def trained(config: Record, shard: Path, tokens: int, seed: int, folder: Path, **given: Any) -> Trainer:
    """A model that has seen so many tokens."""
    batch_tokens = 1024
    options = TrainOptions(
        output=folder, steps=max(2, tokens // batch_tokens), batch_tokens=batch_tokens, max_document_tokens=512,
        mtp=False, seed=seed, threads=1, warmup_steps=5, save_every_s=1e9, **given,
    )  # fmt: skip
    trainer = Trainer(config, [Source(shard)], options)
    while trainer.progress < 1:
        trainer.step()
    return trainer


def loss_of(trainer: Trainer, held_out: Path) -> float:
    """On documents that were not learnt from: nats a token."""
    return evaluate(trainer.model, held_out, batch_tokens=4096).loss


def num_parameters(trainer: Trainer) -> int:
    """All of them, each once."""
    return sum(parameter.numel() for parameter in trainer.model.parameters())


def split(shard: Path, folder: Path, vocab_size: int) -> tuple[Path, Path]:
    """A shard to learn from and one to measure on."""
    from kodkod_engine.training.shards import write_shard

    found = read_shard(shard, vocab_size=vocab_size)
    bounds = list(zip(found.starts[:-1].tolist(), found.starts[1:].tolist(), strict=True))
    documents = [(found.tokens[start:stop].tolist(), found.weights[start:stop].tolist()) for start, stop in bounds]
    at = max(1, len(documents) - HELD_OUT_DOCUMENTS)
    return (
        write_shard(folder / "learnt.safetensors", documents[:at]),
        write_shard(folder / "held-out.safetensors", documents[at:]),
    )


def compare_tables(
    shard: Path, vocab_size: int, tokens: int, seeds: Sequence[int], tell: Callable[[str], None]
) -> Record:
    """Loss with tables, and with experts that have as many parameters, for few and for many experts."""
    runs = []
    table_parameters = _table_parameters()
    for name, experts in SPARSITIES.items():
        more = round(table_parameters / _expert_parameters() / int(SMALL["num_layers"]))
        configs = {
            "tables": small_config(n_routed_experts=experts),
            "experts instead": small_config(n_routed_experts=experts + more, ngram_vocab_size_ratio=0),
        }
        for kind, config in configs.items():
            runs += [
                {"sparsity": name, "model": kind, "experts": config["n_routed_experts"], **found}
                for found in _losses(config, shard, vocab_size, tokens, seeds, {})
            ]
            tell(json.dumps(runs[-1]))
    return {"tokens": tokens, "runs": runs}


def compare_amplification(
    shard: Path, vocab_size: int, tokens: int, seeds: Sequence[int], tell: Callable[[str], None]
) -> Record:
    """Loss and the sizes in the layers, amplified by the default factor and plain."""
    runs = []
    for name, given in (("amplified", {}), ("plain", {"amplification": 1.0})):
        config = small_config(n_routed_experts=12)
        runs += [{"model": name, **found} for found in _losses(config, shard, vocab_size, tokens, seeds, given)]
        tell(json.dumps(runs[-1]))
    return {"tokens": tokens, "runs": runs}


def _losses(
    config: Record, shard: Path, vocab_size: int, tokens: int, seeds: Sequence[int], given: dict[str, Any]
) -> Iterable[Record]:
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="kodkod-experiment-") as name:
            folder = Path(name)
            learnt, held_out = split(shard, folder, vocab_size)
            trainer = trained(config, learnt, tokens, seed, folder / "run", **given)
            yield {
                "seed": seed,
                "parameters": num_parameters(trainer),
                "loss": loss_of(trainer, held_out),
                "training loss": trainer.loss,
                "amplification": trainer.amplification,
                "sizes": layer_sizes(trainer, held_out),
            }


@torch.inference_mode()
def layer_sizes(trainer: Trainer, held_out: Path) -> list[Record]:
    """Root mean squares: of the residual stream before each dual layer, and of what the layer adds to it."""
    model = trainer.model
    mixture = Mixture(
        [Source(held_out)], vocab_size=model.config.vocab_size, batch_tokens=4096, max_document_tokens=512, seed=0
    )
    batch = mixture.next_batch(0.0)
    x = model.embed(batch.token_ids)
    cosine, sine = model.rope_tables(batch.token_ids)
    found = []
    for number, layer in enumerate(model.main.dual_layers):
        after, _ = model._dual_layer(layer, x, cosine, sine)
        real = batch.is_token
        found.append({"layer": number, "stream": _rms(x[real]), "added": _rms((after - x)[real])})
        x = after
    return found


def _rms(x: torch.Tensor) -> float:
    return float(x.float().square().mean().sqrt())


def _table_parameters() -> int:
    """About: rows of all tables, each the width divided by their number."""
    nano = json.loads(_NANO.read_text(encoding="utf-8"))
    vocab_size = int(nano["vocab_size"])
    return round(float(SMALL["ngram_vocab_size_ratio"]) * vocab_size * int(SMALL["hidden_size"]))


def _expert_parameters() -> int:
    return 3 * int(SMALL["hidden_size"]) * int(SMALL["expert_ffn_hidden_size"])


# Pictures


def draw_collisions(record: Record, path: Path) -> None:
    """Multiples of what rows at random would give, by rows a word of the vocabulary."""
    figure, axes = _figure()
    points = record["points"]
    ratios = [point["ratio"] for point in points]
    axes.plot(ratios, [point["occurring"] for point in points], marker=".", label="2-grams as they occur")
    axes.plot(ratios, [point["distinct"] for point in points], marker=".", label="distinct 2-grams")
    axes.axhline(1, color="#888888", linestyle="--", label="rows at random")
    axes.set_yscale("log")
    axes.set(xlabel="rows / vocabulary", ylabel="pairs in one row / expected at random", title="2-gram collisions")
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_tables(record: Record, path: Path) -> None:
    """Held-out loss by sparsity, every seed a point."""
    figure, axes = _figure()
    for place, model in enumerate(("tables", "experts instead")):
        runs = [run for run in record["runs"] if run["model"] == model]
        places = [list(SPARSITIES).index(run["sparsity"]) + 0.15 * (place - 0.5) for run in runs]
        axes.scatter(places, [run["loss"] for run in runs], label=model)
    axes.set_xticks(range(len(SPARSITIES)), list(SPARSITIES))
    axes.set(ylabel="held-out loss, nats a token", title="N-gram tables or experts, equal parameters")
    axes.legend()
    figure.savefig(path, dpi=120)


def draw_amplification(record: Record, path: Path) -> None:
    """The size of the stream and of what each layer adds."""
    figure, axes = _figure()
    for run in record["runs"]:
        layers = [size["layer"] for size in run["sizes"]]
        label = f"{run['model']}, seed {run['seed']}: loss {run['loss']:.3f}"
        share = [size["added"] / size["stream"] for size in run["sizes"]]
        axes.plot(layers, share, marker="o", linestyle="-" if run["model"] == "amplified" else "--", label=label)
    axes.set_yscale("log")
    axes.set_xticks(layers)
    axes.set(xlabel="dual layer", ylabel="size of what is added / of the stream", title="Embedding amplification")
    axes.legend()
    figure.savefig(path, dpi=120)


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    return figure, figure.subplots()


# Commands


@click.command()
@click.argument("name", type=click.Choice(["collisions", "tables", "amplification"]))
@click.argument("shard", type=click.Path(dir_okay=False, exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option("--tokens", type=click.IntRange(1), default=100_000, show_default=True, help="That each model sees.")
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1), show_default=True)
def main(name: str, shard: Path, output: Path, tokens: int, seeds: tuple[int, ...]) -> None:
    """Make one experiment on a SHARD of code, as `python -m kodkod_app.nano code` makes it."""
    vocab_size = int(json.loads(_NANO.read_text(encoding="utf-8"))["vocab_size"])
    draw: Callable[[Record, Path], None]
    if name == "collisions":
        record, draw = collision_sweep(shard, vocab_size), draw_collisions
    elif name == "tables":
        record, draw = compare_tables(shard, vocab_size, tokens, seeds, click.echo), draw_tables
    else:
        record, draw = compare_amplification(shard, vocab_size, tokens, seeds, click.echo), draw_amplification
    today = datetime.now(UTC).date().isoformat()
    output.mkdir(parents=True, exist_ok=True)
    about = {
        "experiment": name,
        "date": today,
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    (output / f"{today}-{name}.json").write_text(json.dumps({**about, **record}, indent=1) + "\n", encoding="utf-8")
    draw(record, output / f"{today}-{name}.png")


if __name__ == "__main__":
    main(prog_name="python -m kodkod_engine.training.experiments")
