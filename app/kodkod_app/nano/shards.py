"""Documents as training reads them: one safetensors file of token ids, weights and document bounds.

    tokens   int32 [n]               the documents, one after another, in a random order
    weights  uint8 [n]               percent of the loss on predicting that token
    starts   int64 [documents + 1]   where each begins; the last is n

The metadata tells what they are: counts, seed, the tokenizer's digest, how many of which kind of fault.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from kodkod_app.nano.corpus import Module
from kodkod_app.nano.dialogue import Dialogue, Encoder
from kodkod_app.nano.packages import PackageSpec
from kodkod_app.nano.simulated import dialogues
from kodkod_app.nano.tool_desk import ToolDesk
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_tools.config import ToolsConfig

MAX_TOKENS = 1_536
"""Of a document; longer ones are left out and counted."""
_MODULES_PER_TASK = 8
_MEMORY_DISK = Path("/dev/shm")


@dataclass(slots=True)
class Batch:
    """Some documents, packed."""

    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.uint8]
    lengths: npt.NDArray[np.int64]
    kinds: Counter[str] = field(default_factory=Counter)
    """Of fault."""
    too_long: int = 0
    """Left out."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a shard holds."""

    documents: int
    tokens: int
    too_long: int
    kinds: dict[str, int]


def pack(found: Iterable[Dialogue], encoder: Encoder) -> Batch:
    """Encode dialogues, leaving out those that are too long."""
    documents, kinds, too_long = [], Counter[str](), 0
    for dialogue in found:
        document = encoder.encode(dialogue)
        if len(document.ids) > MAX_TOKENS:
            too_long += 1
            continue
        documents.append(document)
        kinds[f"{dialogue.origin}:{dialogue.kind}"] += 1
    return Batch(
        np.array([token for document in documents for token in document.ids], dtype=np.int32),
        np.array([weight for document in documents for weight in document.weights], dtype=np.uint8),
        np.array([len(document.ids) for document in documents], dtype=np.int64),
        kinds,
        too_long,
    )


def simulated_batches(modules: Iterable[Module], tokenizer: Path, seed: int, processes: int) -> Iterator[Batch]:
    """The simulated dialogues of modules, packed, in the modules' order whatever the number of processes.

    Args:
        modules: from the corpus.
        tokenizer: the folder of the checkpoint's tokenizer.
        seed: of all draws.
        processes: that work side by side.
    """
    with get_context("spawn").Pool(processes, _begin, (tokenizer, seed)) as pool:
        yield from pool.imap(_simulate, _in_tasks(modules))


def real_batches(
    specs: Sequence[PackageSpec], tokenizer: Path, seed: int, faults: int, seconds: float, processes: int
) -> Iterator[Batch]:
    """The real dialogues of packages, packed, one batch a package.

    Args:
        specs: the packages.
        tokenizer: the folder of the checkpoint's tokenizer.
        seed: of all draws.
        faults: of each package, at most.
        seconds: for each package, at most, once its tests were measured.
        processes: that work side by side.

    Raises:
        PackageFault: a package cannot be made ready.
        RunnerFault: its tests cannot be run.
    """
    tasks = [(spec, tokenizer, seed, faults, seconds) for spec in specs]
    with get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(_play, tasks)


def write_shard(batches: Iterable[Batch], path: Path, seed: int, tokenizer: Tokenizer) -> Summary:
    """Put all documents into one file, shuffled. Holds them in memory, about ten bytes a token.

    Raises:
        ValueError: there are no documents.
    """
    parts = list(batches)
    lengths = np.concatenate([part.lengths for part in parts]) if parts else np.zeros(0, np.int64)
    if not lengths.size:
        raise ValueError(f"there are no documents for {path}")
    starts = np.concatenate([[0], np.cumsum(lengths)])
    order = np.random.default_rng(seed).permutation(lengths.size)
    shuffled = {
        "tokens": _reordered(np.concatenate([part.tokens for part in parts]), starts, order),
        "weights": _reordered(np.concatenate([part.weights for part in parts]), starts, order),
        "starts": np.concatenate([[0], np.cumsum(lengths[order])]).astype(np.int64),
    }
    summary = _summary(parts, int(starts[-1]))
    save_file(shuffled, path, _metadata(summary, seed, tokenizer))
    return summary


def _reordered(
    values: npt.NDArray[Any], starts: npt.NDArray[np.int64], order: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    return np.concatenate([values[starts[index] : starts[index + 1]] for index in order])


def _summary(parts: Sequence[Batch], tokens: int) -> Summary:
    kinds = sum((part.kinds for part in parts), Counter[str]())
    documents = sum(part.lengths.size for part in parts)
    return Summary(documents, tokens, sum(part.too_long for part in parts), dict(sorted(kinds.items())))


def _metadata(summary: Summary, seed: int, tokenizer: Tokenizer) -> dict[str, str]:
    return {
        "documents": str(summary.documents),
        "tokens": str(summary.tokens),
        "too_long": str(summary.too_long),
        "kinds": json.dumps(summary.kinds),
        "seed": str(seed),
        "tokenizer": tokenizer.fingerprint,
    }


def _in_tasks(modules: Iterable[Module]) -> Iterator[list[Module]]:
    task: list[Module] = []
    for module in modules:
        task.append(module)
        if len(task) == _MODULES_PER_TASK:
            yield task
            task = []
    if task:
        yield task


@dataclass(frozen=True, slots=True)
class _Worker:
    """What a process keeps from one task to the next."""

    encoder: Encoder
    seed: int
    scratch: TemporaryDirectory[str]
    desk: ToolDesk


_workers: list[_Worker] = []
"""One at most: this process's."""


def _begin(tokenizer: Path, seed: int) -> None:
    scratch = TemporaryDirectory(prefix="kodkod-nano-", dir=_MEMORY_DISK if _MEMORY_DISK.is_dir() else None)
    # The repaired files parse; that the edit tool looks again would take as long as all the rest.
    desk = ToolDesk(Path(scratch.name).resolve(), ToolsConfig(max_syntax_bytes=0))
    _workers.append(_Worker(Encoder(Tokenizer.from_folder(tokenizer)), seed, scratch, desk))


def _simulate(modules: Sequence[Module]) -> Batch:
    (worker,) = _workers
    return pack((found for module in modules for found in dialogues(module, worker.seed, worker.desk)), worker.encoder)


def _play(task: tuple[PackageSpec, Path, int, int, float]) -> Batch:
    from kodkod_app.nano.transcripts import collect  # takes long to import, which simulating need not wait for

    spec, tokenizer, seed, faults, seconds = task
    return pack(collect(spec, seed, faults, seconds), Encoder(Tokenizer.from_folder(tokenizer)))
