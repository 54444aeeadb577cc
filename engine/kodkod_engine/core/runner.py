"""Integers to tensors and back: builds each step's batch, runs the model, samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import TypeAlias

import numba
import torch
from torch import Tensor

from kodkod_engine.api import SamplingParams
from kodkod_engine.core.batch import MAX_GROUPED_TOKENS, BlockRows, build_batch, windows_of
from kodkod_engine.core.expected import Expected
from kodkod_engine.core.heap import keep_freed_memory
from kodkod_engine.core.lost_device import cause_of, is_lost
from kodkod_engine.core.plan import BlockCopy
from kodkod_engine.core.sampler import draws_of
from kodkod_engine.core.step import NOBODY, Choice, ChosenToken, TokenRun, next_run
from kodkod_engine.core.torch_threads import one_thread
from kodkod_engine.core.verifier import follow, follow_ids
from kodkod_engine.devices import compute_on
from kodkod_engine.errors import CheckpointCorrupt, DeviceLost
from kodkod_engine.kernels.first_use import listen_to_triton, telling
from kodkod_engine.kv.cache import KvCache
from kodkod_engine.kv.layout import KvLayout
from kodkod_engine.layers.attention import MAX_ABSORBED_TOKENS
from kodkod_engine.layers.expanded_context import ExpandedContext
from kodkod_engine.layers.linear import kernel_rows
from kodkod_engine.layers.step_batch import StepBatch
from kodkod_engine.models.loading import LoadedModel

SMALL_LAYER_BYTES = 8 << 20
"""A layer of this size is read from the cache in a tenth of a millisecond."""


_ANY = Choice(SamplingParams(), 0, None)

Watcher: TypeAlias = Callable[[Sequence[TokenRun], Sequence[Tensor]], None]
"""Takes the runs of a step and the hidden states of each, before the final norm: [run length, hidden]."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a forward pass leaves, in the order of the runs given."""

    hidden: tuple[Tensor, ...]
    """Per run: [run length, hidden], before the final norm."""


class ModelRunner:
    """Runs one model on one KV cache. See `core.step.StepRunner`."""

    def __init__(self, loaded: LoadedModel, num_blocks: int, block_size: int) -> None:
        self.loaded = loaded
        self.layout = KvLayout(
            num_cache_layers=loaded.num_cache_layers,
            latent_dim=loaded.config.latent_dim,
            value_bytes=loaded.activation_dtype.itemsize,
            num_blocks=num_blocks,
            block_size=block_size,
        )
        self._torch_threads = torch.get_num_threads()
        """Of whoever loads the model; what the thread begins with that computes depends on who else does."""
        self._kernel_threads = kernel_threads(loaded)
        self._is_small = self._kernel_threads == 1 and loaded.device.type == "cpu"
        a_matrix = loaded.model.dual_layers[0].first.dense.down.home
        self._kernel_rows = kernel_rows(a_matrix)
        self._block_rows = BlockRows()
        self._expected: list[Expected] = []
        self.expanded: ExpandedContext | None = None
        """Where keys and values of the conversation at hand are kept, if they are."""
        self._left = 0
        """The step that the device has ready, if it has any, and how many such it can take one after another."""
        self.cache = KvCache(self.layout, loaded.activation_dtype, loaded.device)
        self._chooses_on_device = loaded.device.type == "cuda"
        if loaded.device.type == "cpu":
            keep_freed_memory()
        if self._chooses_on_device:
            listen_to_triton()
        self.on_compile: Callable[[], object] = lambda: None
        """Called once, on the engine thread, by the first step that has to compile a kernel."""
        self.meanwhile: Callable[[], object] = lambda: None
        """See `OverlappingRunner`."""
        self.watchers: list[Watcher] = []
        """Told of every step's hidden states, on the engine thread; they keep what they need."""

    @property
    def context_tokens(self) -> int:
        """See `StepRunner`."""
        spec = self.loaded.config.ngram
        return spec.context_tokens if spec else 0

    @property
    def overlaps(self) -> bool:
        """See `OverlappingRunner`."""
        return self._chooses_on_device

    def expect(self, context_ids: Sequence[int], token_ids: Sequence[int]) -> None:
        """See `StepRunner`: table rows that lie on a disk are asked for."""
        embedding = self.loaded.model.embedding
        windows = windows_of([TokenRun(NOBODY, token_ids, context_ids, len(context_ids), ())], self.context_tokens)
        if embedding is not None and windows is not None:
            embedding.row_source.expect(windows)

    def run(
        self, copies: Sequence[BlockCopy], runs: Sequence[TokenRun], num_steps: int = 1
    ) -> list[tuple[ChosenToken, ...]]:
        """See `StepRunner`.

        Raises:
            DeviceLost: nothing can be computed in this process any more.
        """
        try:
            compute_on(self.loaded.device)
            if torch.get_num_threads() != self._torch_threads:
                torch.set_num_threads(self._torch_threads)
            with telling(self._tell_compiling, self.meanwhile):
                return self._run(copies, runs, num_steps)
        except RuntimeError as fault:
            if is_lost(fault):
                raise DeviceLost(cause_of(fault)) from fault
            raise

    def _tell_compiling(self) -> None:
        self.meanwhile()  # it takes seconds
        tell, self.on_compile = self.on_compile, lambda: None
        tell()

    @torch.inference_mode()
    def _run(
        self, copies: Sequence[BlockCopy], runs: Sequence[TokenRun], num_steps: int
    ) -> list[tuple[ChosenToken, ...]]:
        for copy in copies:
            self.cache.copy_block(copy.source_block, copy.target_block, copy.num_tokens)
        if not runs:
            self.meanwhile()
            return []
        ids = self._on_device(runs, num_steps) if num_steps > 1 else None
        if ids is not None:
            return [tuple(map(ChosenToken, of_run)) for of_run in ids]
        return self._step_by_step(runs, num_steps)

    def _on_device(self, runs: Sequence[TokenRun], num_steps: int) -> list[list[int]] | None:
        """What the device chooses by itself, so that ids alone come back; None where it does not.

        Per run: the ids for its choices, or those of all steps of a visit.
        """
        if not self._chooses_on_device or self.watchers or not all(map(_is_free, runs)):
            return None
        order = _by_length(runs)
        ids = self._launched([runs[index] for index in order], num_steps)
        if ids is None:
            return None
        self.meanwhile()
        columns: Iterator[tuple[int, ...]] = zip(*ids.tolist(), strict=True)
        of_run = {index: list(islice(columns, len(runs[index].token_ids))) for index in order}
        chosen = [list(chain.from_iterable(of_run[index][-len(run.choices) :])) for index, run in enumerate(runs)]
        _require_numbers(min(map(min, chosen)) >= 0)
        pairs = zip(runs, chosen, strict=True) if self._left > 0 else ()
        self._expected = [Expected.after(run, of_run) for run, of_run in pairs]
        return chosen

    def _launched(self, runs: Sequence[TokenRun], num_steps: int) -> Tensor | None:
        """See `LongcatFlash.choose`. Nothing is sent for runs that the last ones lead to."""
        model = self.loaded.model
        if len(runs) == len(self._expected) and all(map(Expected.is_met, self._expected, runs)):
            ids = model.go_on(self.cache, num_steps)
            if ids is not None:
                self._left -= num_steps
                return ids
        batch = self.batch(runs, ahead=num_steps - 1)
        choices = [choice for run in runs for choice in _of_each_token(run)]
        draws = draws_of(choices, num_steps) if any(choice.sampling.temperature > 0 for choice in choices) else None
        self._left = self._room(runs, num_steps) if draws is None else 0
        return model.choose(batch, self.cache, draws, num_steps, self._left)

    def _room(self, runs: Sequence[TokenRun], num_steps: int) -> int:
        """Steps after these for which the blocks have room, where each is one token."""
        if any(len(run.token_ids) > 1 for run in runs):
            return 0
        return min(-(run.end + num_steps - 1) % self.layout.block_size for run in runs)

    def _step_by_step(self, runs: Sequence[TokenRun], num_steps: int) -> list[tuple[ChosenToken, ...]]:
        chosen = [self._one_step(runs)]
        while len(chosen) < num_steps:
            pairs = zip(runs, chosen[-1], strict=True)
            runs = [next_run(run, token.token_id, self.context_tokens) for run, (token,) in pairs]
            chosen.append(self._one_step(runs))
        return [tuple(chain.from_iterable(of_run)) for of_run in zip(*chosen, strict=True)]

    def _one_step(self, runs: Sequence[TokenRun]) -> list[tuple[ChosenToken, ...]]:
        ids = self._on_device(runs, 1)
        if ids is None:
            with self._as_small():
                return self._chosen(runs)
        return [follow_ids(of_run, run) for of_run, run in zip(ids, runs, strict=True)]

    def _chosen(self, runs: Sequence[TokenRun]) -> list[tuple[ChosenToken, ...]]:
        self.meanwhile()
        self._expected = []  # what the device has ready may have been taken back by then
        hidden = self.forward(runs).hidden
        for watch in self.watchers:
            watch(runs, hidden)
        choosing = [(rows[-len(run.choices) :], run) for rows, run in zip(hidden, runs, strict=True) if run.choices]
        if not choosing:
            return [()] * len(runs)
        logits = self.loaded.model.logits(torch.cat([rows for rows, _ in choosing]))
        _require_numbers(bool(logits.max().isfinite()))
        followed = iter(follow(logits, [run for _, run in choosing]))
        return [next(followed) if run.choices else () for run in runs]

    @torch.inference_mode()
    def forward(self, runs: Sequence[TokenRun]) -> StepOutput:
        """Compute runs and write their KV; a run may hold drafted tokens, nothing remembers them."""
        with self.threads(sum(len(run.token_ids) for run in runs)):
            return self._forward(runs)

    def threads(self, num_tokens: int) -> AbstractContextManager[None]:
        """Steps that run in our own kernels keep torch to one thread: two spinning thread pools would fight."""
        return self._one_thread() if num_tokens <= self._kernel_rows else self._as_small()

    def _as_small(self) -> AbstractContextManager[None]:
        """All that a small model computes keeps to one thread: more would wait for one another longer than they work.

        Above all while the tests it asked for run beside it.
        """
        return self._one_thread() if self._is_small else nullcontext()

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        with one_thread():
            numba.set_num_threads(self._kernel_threads)  # counts for the calling thread alone
            yield

    def _forward(self, runs: Sequence[TokenRun]) -> StepOutput:
        order = _by_length(runs)
        batch = self.followed(self.batch([runs[index] for index in order]), runs[order[-1]])
        hidden: Tensor = self.loaded.model(batch, self.cache)
        parts = hidden.split([len(runs[index].token_ids) for index in order])
        by_run = dict(zip(order, parts, strict=True))
        return StepOutput(tuple(by_run[index] for index in range(len(runs))))

    def followed(self, batch: StepBatch, longest: TokenRun) -> StepBatch:
        """With what is kept expanded of the sequence that adds most, if it adds many tokens."""
        # Fewer attend over the latents themselves, which is less to read.
        few = MAX_ABSORBED_TOKENS if self._chooses_on_device else MAX_GROUPED_TOKENS
        *others, last = batch.groups
        is_known = len(longest.sequence_ids) >= longest.start
        if self.expanded is None or last.query_len <= few or not is_known:
            return batch
        self.expanded.follow([*longest.sequence_ids[: longest.start], *longest.token_ids])
        return replace(batch, groups=(*others, replace(last, expanded=self.expanded)))

    def batch(self, runs: Sequence[TokenRun], ahead: int = 0) -> StepBatch:
        """See `build_batch`."""
        sizes = {"block_size": self.layout.block_size, "context_tokens": self.context_tokens}
        return build_batch(runs, self._block_rows, **sizes, ahead=ahead)

    def logits(self, runs: Sequence[TokenRun]) -> list[Tensor]:
        """fp32 [run length, vocab] per run: for tests, scoring and verification of drafts."""
        with torch.inference_mode():
            return [self.loaded.model.logits(hidden) for hidden in self.forward(runs).hidden]


def _require_numbers(are_numbers: bool) -> None:
    """Of all logits that have to be chosen from; nothing that is chosen from anything else means anything.

    Raises:
        CheckpointCorrupt: not all are.
    """
    if not are_numbers:
        raise CheckpointCorrupt(
            "the model computes no numbers any more (NaN), for its weights are damaged; check the checkpoint, or fetch "
            "and convert it again"
        )


def _by_length(runs: Sequence[TokenRun]) -> list[int]:
    return sorted(range(len(runs)), key=lambda index: len(runs[index].token_ids))


def _is_free(run: TokenRun) -> bool:
    """Whether nothing but an id is asked for, and any will do."""
    return bool(run.choices) and all(
        choice.allowed_ids is None and choice.sampling.logprobs is None for choice in run.choices
    )


def _of_each_token(run: TokenRun) -> list[Choice]:
    """Its choices, and before them any for the tokens after which none is asked."""
    return [_ANY] * (len(run.token_ids) - len(run.choices)) + list(run.choices)


def kernel_threads(loaded: LoadedModel) -> int:
    """Threads of our own kernels: one for a model so small that waking others costs more than they do."""
    layer = loaded.model.dual_layers[0]
    layer_bytes = sum(parameter.nbytes for parameter in layer.parameters())
    return 1 if layer_bytes < SMALL_LAYER_BYTES else min(torch.get_num_threads(), numba.get_num_threads())
