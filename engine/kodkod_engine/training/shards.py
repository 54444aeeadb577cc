"""Tokenised documents on disk: one safetensors file with their tokens and how much each counts in the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kodkod_engine.errors import EngineError

TENSORS: Mapping[str, type[np.generic]] = {"tokens": np.int32, "weights": np.uint8, "starts": np.int64}


class ShardFault(EngineError):
    """A shard that is not there, or not in the form the trainer reads."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Shard:
    """Documents one after another."""

    path: Path
    tokens: npt.NDArray[np.int32]
    """[tokens]."""
    weights: npt.NDArray[np.uint8]
    """[tokens]: percent of the loss that predicting this token gets."""
    starts: npt.NDArray[np.int64]
    """[documents + 1]: where each begins; the last entry is where the last one ends."""

    def pieces(self, max_tokens: int) -> npt.NDArray[np.int64]:
        """Documents as [pieces, 2] starts and stops; one longer than `max_tokens` is cut into several."""
        out = [
            (start, min(start + max_tokens, stop))
            for first, stop in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
            for start in range(first, stop, max_tokens)
        ]
        pieces = np.array(out, dtype=np.int64).reshape(-1, 2)
        # A single token predicts nothing.
        return pieces[pieces[:, 1] - pieces[:, 0] > 1]


def read_shard(path: str | Path, *, vocab_size: int) -> Shard:
    """Read a shard whole.

    Raises:
        ShardFault: no such file, another form, or a token that the vocabulary does not have.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in TENSORS}
    except FileNotFoundError as fault:
        raise ShardFault(f"{path}: no such file; give a shard of training documents") from fault
    except (OSError, SafetensorError) as fault:
        raise ShardFault(f"{path}: not a shard with tokens, weights and starts; make it again") from fault
    _check(path, arrays, vocab_size)
    return Shard(path, arrays["tokens"], arrays["weights"], arrays["starts"])


def _check(path: Path, arrays: Mapping[str, npt.NDArray[np.generic]], vocab_size: int) -> None:
    for name, dtype in TENSORS.items():
        if arrays[name].dtype != dtype or arrays[name].ndim != 1:
            raise ShardFault(f"{path}: {name} is not a row of {np.dtype(dtype)}; make the shard again")
    tokens, weights, starts = (arrays[name].astype(np.int64) for name in TENSORS)
    in_order = len(starts) > 1 and starts[0] == 0 and starts[-1] == len(tokens) and bool((np.diff(starts) >= 0).all())
    if len(tokens) != len(weights) or not in_order:
        raise ShardFault(f"{path}: tokens, weights and starts do not fit each other; make the shard again")
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocab_size:
        raise ShardFault(f"{path}: a token beyond the {vocab_size} of the model; use its own tokenizer")


def write_shard(
    path: str | Path,
    documents: Sequence[tuple[Sequence[int], Sequence[int]]],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write documents, each its tokens and their weights in percent.

    Returns:
        The path.
    """
    tokens = [np.asarray(ids, dtype=np.int32) for ids, _ in documents]
    weights = [np.asarray(percents, dtype=np.uint8) for _, percents in documents]
    starts = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
    arrays: dict[str, npt.NDArray[Any]] = {
        "tokens": np.concatenate(tokens),
        "weights": np.concatenate(weights),
        "starts": starts,
    }
    save_file(arrays, path, metadata=dict(metadata or {}))
    return Path(path)
