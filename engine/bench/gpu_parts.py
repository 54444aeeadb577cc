"""What is measured on a device: each row with the limit that follows from the rates of the same run."""

from __future__ import annotations

import asyncio
import gc
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from gpu_attention import attention_rows
from gpu_equality import equality_row, reference_row, widened
from gpu_model import BLOCK_SIZE, Device, Player, Scale, build, config_of, other_embedding, step_bytes
from gpu_record import Rows
from torch import nn

from kodkod_engine.api import Completion, GenerationRequest, SamplingParams, Speculation, collect
from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.benchmark.ceilings import Ceilings, measure_ceilings
from kodkod_engine.benchmark.gpu_kernels import graphed, kernel_cases
from kodkod_engine.config import EngineConfig
from kodkod_engine.layers.ngram_embedding import NgramEmbedding
from kodkod_engine.layers.pinned import PinningFailed, pinned_empty
from kodkod_engine.models.config import ModelConfig
from kodkod_engine.models.loading import LoadedModel
from kodkod_engine.models.ngram_spec import polynomial_spec
from kodkod_engine.placement.sizes import part_sizes

PROFILED_STEPS = 3
PROFILED_KERNELS = 25
ENGINE_TOKENS = 48


class Bench:
    """The model under test and what it is measured with; each method is one part and yields its rows."""

    def __init__(
        self,
        config: ModelConfig,
        device: Device,
        scale: Scale,
        *,
        is_dry: bool,
        measured: dict[str, Any],
        small: dict[str, Any],
    ) -> None:
        """`measured`: parts of an earlier process of the run; `small`: the keys of a model of few layers."""
        self.small = small
        self.config, self.device, self.scale, self.is_dry = config, device, scale, is_dry
        ceilings = measured.get("ceilings")
        self._ceilings = Ceilings(**ceilings[0]) if ceilings else None
        self._loaded: LoadedModel | None = None
        self._player: Player | None = None

    # What parts stand on.

    @property
    def ceilings(self) -> Ceilings:
        """Measured once per process."""
        if self._ceilings is None:
            self._ceilings = measure_ceilings(self.device.torch, num_bytes=1 << (20 if self.is_dry else 32))
        return self._ceilings

    def loaded(self, precision: str = "bf16") -> LoadedModel:
        """The model; one of another precision takes over its tables."""
        if self._loaded is None or str(self._loaded.precisions.experts) != precision:
            self._player, tables = None, None
            if self._loaded is not None:
                embedding = self._loaded.model.embedding
                assert embedding is not None
                assert embedding.resident is not None
                tables, self._loaded = embedding.resident.weight.detach(), None
                del embedding
                gc.collect()
                torch.cuda.empty_cache()
            self._loaded = build(self.config, precision, self.device, tables)
        return self._loaded

    def player(self, num_tokens: int | None = None, precision: str = "bf16") -> Player:
        """Sequences in one cache of so many tokens; another size takes the place of the last."""
        wanted, loaded = num_tokens or self.scale.cache_tokens, self.loaded(precision)
        if self._player is None or self._player.num_tokens != wanted or self._player.loaded is not loaded:
            self._player = None
            self._player = Player(loaded, wanted, self.device)
        return self._player

    # Parts.

    def ceilings_part(self) -> Rows:
        yield asdict(self.ceilings)
        if self.device.is_cuda:
            yield {"large_bf16_flop_per_s": large_matmul_rate(self.device)}

    @torch.inference_mode()
    def load_part(self) -> Rows:
        spent = self.device.seconds(self.loaded)
        yield {"build_s": spent, **self._memory()}
        spent = self.device.seconds(self.player)
        yield {"cache_tokens": self.scale.cache_tokens, "build_s": spent, **self._memory()}

    def _memory(self) -> dict[str, float]:
        if not self.device.is_cuda:
            return {}
        free, total = torch.cuda.mem_get_info()
        return {"device_used_gb": (total - free) / 1e9, "device_free_gb": free / 1e9}

    def equality_part(self) -> Rows:
        """One token, drafts, sequences, and the longest draft."""
        for sequences, new in ((1, 1), (1, 3), (3, 1), (2, 4), (1, max(self.scale.drafts))):
            yield equality_row(self.player(), sequences, self.scale.short_context, new)

    def reference_part(self) -> Rows:
        """Two layers against themselves in fp32; before the model is there, which leaves no room for them."""
        with tempfile.TemporaryDirectory() as folder:
            config = config_of(Path(folder), self.small)
        player = Player(build(config, "bf16", self.device), self.scale.short_context * 4, self.device)
        wide = widened(player)
        for sequences, new in ((1, 1), (3, 1), (1, 8)):
            yield reference_row(player, wide, sequences, self.scale.short_context, new)

    @torch.inference_mode()
    def kernels_part(self) -> Rows:
        """Every kernel of the step alone, over all layers and in a graph, for one sequence and for several."""
        player, scale = self.player(), self.scale
        for tokens in sorted({1, min(4, max(scale.batches)), max(scale.batches)}):
            for case in kernel_cases(player.fused, tokens, scale.context):
                replay = graphed(case.work)
                replay()
                spent = self.device.seconds(replay, 1 if self.is_dry else 3)
                rate = case.num_bytes / spent
                yield {
                    "kernel": case.name,
                    "tokens": tokens,
                    "calls": case.calls,
                    "bytes": case.num_bytes,
                    "us_per_call": spent / case.calls * 1e6,
                    "us_per_step": spent * 1e6,
                    "fraction": rate / self.ceilings.read_bytes_per_s,
                }
                del replay

    def decode_part(self, context: int, batches: tuple[int, ...], precision: str = "bf16") -> Rows:
        for batch in batches:
            yield self._point(batch, context, 1, precision)

    def precision_part(self, precision: str) -> Rows:
        """The fused step against the modules, decoding at each batch, and the shortest prompt."""
        yield equality_row(self.player(precision=precision), 3, self.scale.short_context, 1)
        yield from self.decode_part(self.scale.context, self.scale.batches, precision)
        player, length = self.player(precision=precision), self.scale.prompts[0]
        spent = min(player.prefill_s(0, length, self.scale.chunk_tokens) for _ in range(2))
        yield {"precision": precision, "prompt": length, **self._prefill_figures(0, length, spent)}

    def verify_part(self) -> Rows:
        for draft in self.scale.drafts:
            yield self._point(1, self.scale.context, draft)

    @torch.inference_mode()
    def _point(self, batch: int, context: int, new: int, precision: str = "bf16") -> dict[str, Any]:
        player, scale = self.player(precision=precision), self.scale
        point: dict[str, Any] = {"precision": precision, "batch": batch, "context": context, "new": new}
        if batch * (context + scale.steps + scale.warm_steps + new + 16) > player.num_tokens:
            return point | {"fault": "the cache does not hold so much beside the weights"}
        runs = player.runs(batch, context, new)
        is_fused = player.fused.admits(player.batch(runs))
        if not is_fused:
            scale = replace(scale, steps=3, warm_steps=1)
        distinct = player.distinct_experts(player.batch(runs))
        spent, replay_s = player.decode_s(batch, context, new, scale)
        num_bytes = step_bytes(player, distinct, batch, context + new)
        limit_s = num_bytes / self.ceilings.read_bytes_per_s
        point |= {
            "fused_step": is_fused,
            "distinct_experts": distinct,
            "bytes": num_bytes,
            "step_ms": spent * 1e3,
            "tokens_per_s": batch * new / spent,
            "limit_tokens_per_s": batch * new / limit_s,
            "fraction": limit_s / spent,
        }
        if replay_s is not None:
            point |= {
                "graph_ms": replay_s * 1e3,
                "host_ms": (spent - replay_s) * 1e3,
                "graph_fraction": limit_s / replay_s,
            }
        return point

    @torch.inference_mode()
    def peer_part(self) -> Rows:
        """The modules without fused kernels' step or graph: what plain torch with a few kernels makes of it."""
        player = self.player()
        runs = player.runs(1, self.scale.context, 1)

        def step() -> None:
            hidden = player.plain(player.batch(runs))
            player.loaded.model.logits(hidden).argmax(dim=-1).tolist()

        step()
        spent = self.device.seconds(step, repeats=3 if self.is_dry else 10)
        yield {"batch": 1, "context": self.scale.context, "modules_step_ms": spent * 1e3, "tokens_per_s": 1 / spent}

    def engine_part(self) -> Rows:
        """The engine as users have it, loop, scheduler and streams in it, without drafts."""
        self._player, loaded, scale = None, self.loaded(), self.scale
        many = min(4, max(scale.batches))
        room = many * (scale.short_context + ENGINE_TOKENS + 2 * BLOCK_SIZE) + scale.prompts[0]
        config = EngineConfig(device=self.device.torch.type, max_cached_tokens=room, speculation=Speculation.NONE)
        engine = NativeEngine(loaded, None, config)
        try:
            for batch in (1, many):
                for _ in range(2):  # the first captures
                    done = _complete(engine, self._prompts(batch), 4 if self.is_dry else ENGINE_TOKENS)
                step_s = max(one.usage.decode_s / (one.usage.generated_tokens - 1) for one in done)
                first_s = max(one.usage.prefill_s for one in done)
                yield {
                    "batch": batch,
                    "step_ms": step_s * 1e3,
                    "tokens_per_s": batch / step_s,
                    "first_token_s": first_s,
                }
        finally:
            engine.close()
            loaded.model._gpu_step = None

    def _prompts(self, batch: int) -> list[tuple[int, ...]]:
        ids = torch.randint(3, self.config.vocab_size, (batch, self.scale.short_context))
        return [tuple(row) for row in ids.tolist()]

    def prefill_part(self) -> Rows:
        """A cold prompt of each length, then a turn of new tokens behind a cached context."""
        scale = self.scale
        longest = max(*scale.prompts, scale.cached + max(scale.new)) + 16
        player = self.player(longest)
        player.prefill_s(0, min(scale.prompts[0], scale.chunk_tokens), scale.chunk_tokens)  # compiles
        chunks = [
            (scale.prompts[0], scale.chunk_tokens // 2),
            *((length, scale.chunk_tokens) for length in scale.prompts),
        ]
        for length, chunk in chunks:
            spent = min(player.prefill_s(0, length, chunk) for _ in range(2))
            yield {"prompt": length, "chunk": chunk, **self._prefill_figures(0, length, spent)}
        for new in scale.new:
            spent = min(player.prefill_s(scale.cached, new, scale.chunk_tokens) for _ in range(3))
            yield {"cached": scale.cached, "new": new, **self._prefill_figures(scale.cached, new, spent)}

    def _prefill_figures(self, cached: int, new: int, spent: float) -> dict[str, float]:
        config, sizes = self.config, part_sizes(self.config)
        active = sizes.attention + sizes.latent_maps + sizes.dense + sizes.projection + sizes.router
        linear = 2 * (active + sizes.num_layers * sizes.active_experts * sizes.expert) * new
        per_pair = 2 * config.num_attention_blocks * config.num_heads
        per_pair *= config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim
        flop = linear + per_pair * new * (cached + new / 2)
        floor_s = flop / self._flop_rate
        return {
            "seconds": spent,
            "tokens_per_s": new / spent,
            "flop": flop,
            "floor_s": floor_s,
            "fraction": floor_s / spent,
        }

    @property
    def _flop_rate(self) -> float:
        return large_matmul_rate(self.device) if self.device.is_cuda else self.ceilings.fp32_flop_per_s

    def attention_part(self) -> Rows:
        """Long attention alone, by every way there is."""
        self._player = None
        yield from attention_rows(self.config, self.device, self.scale)

    def prefill_profile_part(self) -> Rows:
        """Where the time of the shortest prompt goes, by kernel."""
        player = self.player(max(*self.scale.prompts, self.scale.cached + max(self.scale.new)) + 16)
        length = self.scale.prompts[0]
        yield from profiled(lambda: player.prefill_s(0, length, self.scale.chunk_tokens), 1, self.device)

    @torch.inference_mode()
    def decode_profile_part(self) -> Rows:
        """Where the time of a decode step goes, by kernel, in its graph."""
        player = self.player()
        runs = player.runs(1, self.scale.context, 1)
        player.step(runs)
        steps = 1 if self.is_dry else PROFILED_STEPS
        yield from profiled(lambda: [player.step(runs) for _ in range(steps)], steps, self.device)

    def isolation_part(self) -> Rows:
        """The N-gram branch: the same backbone with and without it, its tables on the device and in pinned memory."""
        loaded = self.loaded()
        yield from self._branch("resident tables", loaded.model.embedding)
        yield from self._branch("none", None)
        embedding = self._pinned_embedding(loaded)
        assert embedding.resident is not None
        pinned_gb = embedding.resident.weight.nbytes / 1e9
        for row in self._branch("pinned tables", embedding):
            yield row | {"pinned_gb": pinned_gb, "note": "fewer rows than published, hit at random"}

    @torch.inference_mode()
    def _branch(self, name: str, embedding: NgramEmbedding | None) -> Rows:
        """Decoding and a prompt with one embedding; the last player makes room, so that only one is there."""
        self._player, loaded, scale = None, self.loaded(), self.scale
        batches = sorted({1, min(16, max(scale.batches))})
        with other_embedding(loaded, embedding):
            player = Player(loaded, max(batches) * (scale.short_context + 64), self.device)
            for batch in batches:
                spent, replay_s = player.decode_s(batch, scale.short_context, 1, scale)
                graph = {} if replay_s is None else {"graph_ms": replay_s * 1e3}
                yield {"branch": name, "batch": batch, "step_ms": spent * 1e3, **graph}
            length = min(scale.prompts[0], player.num_tokens - BLOCK_SIZE)
            spent = min(player.prefill_s(0, length, scale.chunk_tokens) for _ in range(3))
            yield {"branch": name, "prompt": length, "seconds": spent}

    def _pinned_embedding(self, loaded: LoadedModel) -> NgramEmbedding:
        """As the model's own, sharing words and projection, with smaller tables in pinned memory."""
        own = loaded.model.embedding
        assert own is not None
        spec = polynomial_spec(
            vocab_size=self.config.vocab_size,
            ratio=self.scale.pinned_ratio,
            order_limit=own.spec.context_tokens + 1,
            splits=own.spec.num_tables // own.spec.context_tokens,
            table_width=own.spec.table_width,
            border_ids=frozenset(own.spec.border_ids),
        )
        with torch.device("meta"):
            embedding = NgramEmbedding(spec, self.config.vocab_size, self.config.hidden_size, dtype=own.dtype)
        embedding.word, embedding.projection = own.word, own.projection
        assert embedding.resident is not None
        embedding.resident.weight = nn.Parameter(self._pinned_values(embedding), requires_grad=False)
        return embedding

    def _pinned_values(self, embedding: NgramEmbedding) -> torch.Tensor:
        assert embedding.resident is not None
        shape, dtype = tuple(embedding.resident.weight.shape), embedding.word.dtype
        try:
            memory = pinned_empty(shape, dtype, embedding)
        except PinningFailed:
            if self.device.is_cuda:
                raise
            memory = torch.empty(shape, dtype=dtype)
        for start in range(0, shape[0], 1 << 21):
            piece = memory[start : start + (1 << 21)]
            piece.copy_(torch.randn(piece.shape, dtype=dtype, device=self.device.torch))
        return memory


def _complete(engine: NativeEngine, prompts: list[tuple[int, ...]], max_tokens: int) -> list[Completion]:
    sampling = SamplingParams(max_tokens=max_tokens, ignore_eos=True)

    async def together() -> list[Completion]:
        streams = [engine.generate(GenerationRequest(prompt, sampling)) for prompt in prompts]
        return list(await asyncio.gather(*map(collect, streams)))

    return asyncio.run(together())


def large_matmul_rate(device: Device, size: int = 8192) -> float:
    """bf16 operations per second of a square product that fills the device."""
    left, right = (torch.randn(size, size, device=device.torch).bfloat16() for _ in range(2))
    left @ right
    return 2 * size**3 / device.seconds(lambda: left @ right, repeats=5)


def profiled(work: Any, steps: int, device: Device) -> Rows:
    """Device time by kernel of some steps, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    work()
    activities = [ProfilerActivity.CUDA] if device.is_cuda else [ProfilerActivity.CPU]
    with profile(activities=activities) as seen:
        work()
        device.wait()
    kernels = sorted(seen.key_averages(), key=lambda one: -one.self_device_time_total)
    total = sum(one.self_device_time_total for one in kernels)
    yield {"kernel": "all", "us_per_step": total / steps}
    for one in kernels[:PROFILED_KERNELS]:
        yield {
            "kernel": one.key[:90],
            "calls_per_step": one.count / steps,
            "us_per_step": one.self_device_time_total / steps,
            "share": one.self_device_time_total / total if total else 0.0,
        }
