"""Drafts against the model: which of them it would have chosen itself.

At every place of a draft the token is chosen exactly as plain decoding chooses it: with the same draw, which depends on
seed and position alone. The draft is accepted for as long as it says the same. So an answer is the same ids with
drafts as without, at any temperature. For a draft that is one sequence of tokens, as all of ours are, this is
speculative sampling (arXiv 2211.17192): a token x is accepted with probability p(x), and where it is not, what stands
there is distributed as p without x.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from kodkod_engine.core.sampler import choose
from kodkod_engine.core.step import ChosenToken, TokenRun


def follow(logits: Tensor, runs: Sequence[TokenRun]) -> list[tuple[ChosenToken, ...]]:
    """What follows each run: the accepted drafts, then the token chosen after them.

    Args:
        logits: fp32 [rows, vocab], one row for each choice of each run, in order.
        runs: each with at least one choice.
    """
    first_rows = [0]
    for run in runs:
        first_rows.append(first_rows[-1] + len(run.choices))
    plain = [index for index, run in enumerate(runs) if len(run.choices) == 1]
    chosen: dict[int, tuple[ChosenToken, ...]] = {}
    if plain:
        rows = logits if len(plain) == len(logits) else logits[[first_rows[index] for index in plain]]
        tokens = choose(rows, [runs[index].choices[0] for index in plain])
        chosen = {index: (token,) for index, token in zip(plain, tokens, strict=True)}
    for index, run in enumerate(runs):
        if index not in chosen:
            chosen[index] = tuple(_follow_drafts(logits[first_rows[index] : first_rows[index + 1]], run))
    return [chosen[index] for index in range(len(runs))]


def follow_ids(ids: Sequence[int], run: TokenRun) -> tuple[ChosenToken, ...]:
    """As `follow` for one run of greedy choices that nothing restricts; `ids`: the most probable ones, per choice."""
    accepted = 0
    for token_id, draft in zip(ids, run.draft_ids, strict=False):
        if token_id != draft:
            break
        accepted += 1
    return tuple(ChosenToken(token_id) for token_id in ids[: accepted + 1])


def _follow_drafts(logits: Tensor, run: TokenRun) -> Iterator[ChosenToken]:
    drafts = iter(run.draft_ids)
    for token in _chosen(logits, run):
        yield token
        if token.token_id != next(drafts, None):
            return


def _chosen(logits: Tensor, run: TokenRun) -> Iterator[ChosenToken]:
    """Row by row where a choice costs a pass over the vocabulary in fp64, all rows at once where it is an argmax."""
    if run.choices[0].sampling.temperature == 0:
        yield from choose(logits, run.choices)
        return
    for row, choice in zip(logits.split(1), run.choices, strict=True):
        yield from choose(row, [choice])
