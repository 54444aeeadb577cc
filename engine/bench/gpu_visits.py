"""What several steps per visit of the host bring, and what drawing on the device costs beside the most probable ids."""

from __future__ import annotations

import statistics
from dataclasses import replace
from functools import partial

import torch
from gpu_bench import Bench
from gpu_model import BLOCK_SIZE, Player
from gpu_record import Rows

from kodkod_engine.api import SamplingParams
from kodkod_engine.core.sampler import draws_of
from kodkod_engine.core.step import Choice, TokenRun, next_run

STEPS_PER_VISIT = (1, 2, 4, 8)
USUAL_STEPS = 4
SAMPLINGS = {
    "greedy": SamplingParams(),
    "temperature": SamplingParams(1.0),
    "top-p": SamplingParams(1.0, top_p=0.95),
    "top-k, top-p, min-p": SamplingParams(0.7, 50, 0.95, 0.02),
}


@torch.inference_mode()
def visits(bench: Bench) -> Rows:
    """Milliseconds until ids are on the host, per step; and whether they are the ids of single steps."""
    player, scale = bench.player(), bench.scale
    per_visit = STEPS_PER_VISIT[:2] if bench.is_dry else STEPS_PER_VISIT
    total = max(per_visit)
    for batch in scale.batches[: 1 if bench.is_dry else 2]:
        for name, sampling in SAMPLINGS.items():
            runs = _choosing(player.runs(batch, scale.context, 1), sampling)
            wanted = _ids(player, runs, 1, total)
            for num_steps in per_visit:
                is_equal = _ids(player, runs, num_steps, total) == wanted
                times = [
                    bench.device.seconds(partial(_visit, player, runs, num_steps))
                    for _ in range(max(1, scale.steps // num_steps))
                ]
                step_s = statistics.median(times) / num_steps
                yield {
                    "batch": batch,
                    "context": scale.context,
                    "sampling": name,
                    "steps_per_visit": num_steps,
                    "step_ms": step_s * 1e3,
                    "tokens_per_s": batch / step_s,
                    "ids_of_single_steps": is_equal,
                }


@torch.inference_mode()
def visit_s(bench: Bench, player: Player, batch: int, context: int) -> float:
    """Median seconds of a greedy step, when the host looks every `USUAL_STEPS` of them."""
    runs = _choosing(player.runs(batch, context, 1), SAMPLINGS["greedy"])
    visit = partial(_visit, player, runs, USUAL_STEPS)
    visit()
    times = [bench.device.seconds(visit) for _ in range(max(1, bench.scale.steps // 2))]
    return statistics.median(times) / USUAL_STEPS


def _choosing(runs: list[TokenRun], sampling: SamplingParams) -> list[TokenRun]:
    """Each with a seed of its own, and with blocks for what follows."""
    each = len(runs[0].block_ids) + -(-max(STEPS_PER_VISIT) // BLOCK_SIZE)
    return [
        replace(
            run,
            block_ids=tuple(range(index * each, (index + 1) * each)),
            choices=[Choice(replace(sampling, seed=index), run.end, None)],
        )
        for index, run in enumerate(runs)
    ]


def _visit(player: Player, runs: list[TokenRun], num_steps: int) -> list[list[int]]:
    """What the engine does for one: runs in, the ids of each on the host."""
    batch = player.runner.batch(runs, ahead=num_steps - 1)
    choices = [run.choices[0] for run in runs]
    draws = draws_of(choices, num_steps) if choices[0].sampling.temperature > 0 else None
    ids: list[list[int]] = player.fused.choose(batch, draws, num_steps).T.tolist()
    return ids


def _ids(player: Player, runs: list[TokenRun], num_steps: int, total: int) -> list[list[int]]:
    """Of `total` steps, so many in each visit."""
    said: list[list[int]] = [[] for _ in runs]
    while len(said[0]) < total:
        for index, ids in enumerate(_visit(player, runs, num_steps)):
            said[index] += ids
            for token_id in ids:
                runs = [
                    *runs[:index],
                    next_run(runs[index], token_id, player.runner.context_tokens),
                    *runs[index + 1 :],
                ]
    return said
