"""vLLM behind the engine contract: in this process, or a `vllm serve` that runs. Always token ids in and out.

    open_vllm("http://host:8000/v1", config)   a server: several devices, several machines (`backends.vllm_server`)
    open_vllm("/models/longcat", config)       in this process: our thread steps vLLM's engine (`backends.vllm_loop`)

Text, stop strings, end of turn, usage and finish reasons are made here as for our own engine; vLLM's tokenizer is not
used. What the contract says holds, but for this:

- Prefixes are reused in whole blocks of vLLM's (16 or 32 tokens), not to the token. A fork is a prefix like any other:
  `parent_id` is not looked at.
- `draft_sources` and `speculation` are not looked at; vLLM drafts as its `speculative_config` says, and `Usage.drafts`
  is empty.
- In this process tokens that are drawn or constrained are chosen by our own sampler (`backends.vllm_choosing`), so
  seeds, constraints and doubt are exactly those of our engine; at the cost of a visit to the host per token. Not with a
  `speculative_config`, nor with vLLM's V2 model runner, which LongCat-Flash-Lite needs: then constraints are refused (a
  server keeps them), and vLLM draws.
- At a server vLLM draws: a seed begins anew with each request, and on a CPU the draw depends on how the prompt was cut.
- At a server constraints are kept by showing each token to the constraint and asking again where one is forbidden
  (`backends.vllm_dialogue`). `allowed_mass` is then an upper bound, from the five most probable tokens; of a forced
  token it is not known, and given as 1. Log-probabilities under a constraint are refused.
- At a server `reused_tokens` is known when it runs with `--enable-prompt-tokens-details` and its stream came to an end;
  else it is 0. `EngineStats` counts this process's requests alone, and no blocks.

LongCat-Flash-Lite in stock vLLM loses its N-gram context under speculation; `kodkod_engine.vllm_plugin` mends that
wherever this package is installed beside vLLM.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kodkod_engine.api import EngineStats, GenerationRequest, TokenStream
from kodkod_engine.backends.checking import check_request
from kodkod_engine.backends.vllm_config import VllmConfig
from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.core.answer import Answer
from kodkod_engine.core.sequence import Sequence
from kodkod_engine.core.stream import ThreadedStream
from kodkod_engine.errors import BackendMissing, BackendUnavailable, CheckpointMissing, EngineClosed, RequestError

if TYPE_CHECKING:
    from kodkod_engine.backends.vllm_loop import VllmLoop
    from kodkod_engine.backends.vllm_server import ServedEngine

_IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
"""vLLM's variables: its engine in this process, no telemetry, no chatter. What the person set stands."""


class VllmEngine:
    """See `api.Engine`: vLLM in this process."""

    def __init__(self, loop: VllmLoop, *, tokenizer: Tokenizer | None, eos_id: int) -> None:
        self.tokenizer = tokenizer
        self._loop = loop
        self._eos_id = eos_id
        self._numbers = itertools.count(1)
        self._is_closed = False

    @property
    def vocab_size(self) -> int:
        """See `Engine`."""
        return self._loop.vocab_size

    @property
    def max_context_tokens(self) -> int:
        """See `Engine`."""
        return self._loop.max_context_tokens

    def generate(self, request: GenerationRequest) -> TokenStream:
        """See `Engine`.

        Raises:
            RequestError: also for a constraint where vLLM does not let our sampler choose.
        """
        if self._is_closed:
            raise EngineClosed("the engine is closed; load it again")
        check_request(
            request,
            vocab_size=self.vocab_size,
            max_context_tokens=self.max_context_tokens,
            has_tokenizer=self.tokenizer is not None,
        )
        if request.constraint is not None and not self._loop.chooses:
            raise RequestError(
                "vLLM in this process keeps no constraint while it speculates or runs its V2 model runner; take "
                "speculative_config away, or use a running server: vllm:http://host:8000/v1"
            )
        stream = ThreadedStream(f"stream-{next(self._numbers)}", self._loop.cancel)
        end = min(len(request.token_ids) + request.sampling.max_tokens, self.max_context_tokens)
        sequence = Sequence(stream.id, list(request.token_ids), len(request.token_ids), end)
        self._loop.submit(sequence, Answer(request, stream, self._eos_id, self.tokenizer))
        return stream

    def stats(self) -> EngineStats:
        """See `Engine`. vLLM counts blocks that hold a prefix nobody runs as free, and so does this."""
        return self._loop.stats

    def close(self) -> None:
        """See `Engine`."""
        self._is_closed = True
        self._loop.close()


def open_vllm(place: str, config: VllmConfig) -> VllmEngine | ServedEngine:
    """An engine of vLLM's.

    Args:
        place: address of a server (`http://host:8000/v1`), or folder of a checkpoint.

    Raises:
        ServerUnreachable, BackendMissing, BackendUnavailable, CheckpointError: it cannot be used; says why.
    """
    if is_address(place):
        from kodkod_engine.backends.vllm_server import connect

        return connect(place, config)
    return load_vllm(Path(place), config)


def is_address(place: str) -> bool:
    """Whether that is a server, not a folder."""
    return place.startswith(("http://", "https://"))


def load_vllm(folder: Path, config: VllmConfig) -> VllmEngine:
    """Load a checkpoint folder into vLLM, in this process.

    Raises:
        CheckpointMissing: there is no such checkpoint.
        BackendMissing: vLLM is not installed.
        BackendUnavailable: vLLM refuses the model or the options.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointMissing(f"there is no checkpoint folder {folder}; give another, or a server's address")
    if importlib.util.find_spec("vllm") is None:
        raise BackendMissing("vLLM is not installed; install it: pip install 'kodkod[vllm]', or name a running server")
    for name, value in _IN_PROCESS.items():
        os.environ.setdefault(name, value)
    try:
        loop = _start(folder, config)
    except Exception as fault:
        cause = " ".join(f"{type(fault).__name__}: {fault}".split())[:400]
        raise BackendUnavailable(
            f"vLLM does not load {folder} ({cause}); see the settings under engine.vllm"
        ) from fault
    place = config.tokenizer or folder
    tokenizer = Tokenizer.from_folder(place) if (place / "tokenizer.json").is_file() else None
    eos_id = tokenizer.eos_id if tokenizer is not None else eos_of(folder)
    return VllmEngine(loop, tokenizer=tokenizer, eos_id=eos_id)


def _start(folder: Path, config: VllmConfig) -> VllmLoop:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from kodkod_engine.backends.vllm_choosing import PROCESSOR
    from kodkod_engine.backends.vllm_loop import VllmLoop

    arguments: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,
        # A token must be known before the next is asked for: the constraint's answer depends on it.
        "async_scheduling": False,
        "generation_config": "vllm",
        **config.engine_arguments(),
    }

    def build() -> Any:
        settings = EngineArgs(**arguments).create_engine_config()
        if takes_processor(settings):
            settings.model_config.logits_processors = [*(settings.model_config.logits_processors or ()), PROCESSOR]
        return LLMEngine.from_vllm_config(settings)

    return VllmLoop(build)


def takes_processor(settings: Any) -> bool:
    """Whether vLLM, set up so, lets our sampler choose: not while it speculates, nor with its V2 model runner."""
    return settings.speculative_config is None and not getattr(settings, "use_v2_model_runner", False)


def eos_of(folder: Path) -> int:
    """The end of a turn by the checkpoint's config; LongCat's where it is silent."""
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = fields.get("eos_token_id")
    return found if isinstance(found, int) else 2
