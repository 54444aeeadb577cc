"""What a step's drafts brought the streams in it.

All by the table of costs, what was gained and what was lost: by the clock, each interruption of the machine would be
speculation's loss.
"""

from __future__ import annotations

from kodkod_engine.speculation.costs import CostTable
from kodkod_engine.speculation.means import Brought, Kind
from kodkod_engine.speculation.proposal import NO_PROPOSAL
from kodkod_engine.speculation.step_times import StepTimes
from kodkod_engine.speculation.stream import LOOKED_UP, Planned


def brought(planned: Planned, step: StepTimes, costs: CostTable, plain_s: float) -> list[Brought]:
    """Of each stream that might have been drafted for.

    Args:
        planned: what was proposed.
        step: what became of it.
        costs: seconds of steps.
        plain_s: of this one, had it had no drafts.
    """
    more_s = _more_s(planned, step, costs)
    return [
        _of_stream(planned, request_id, step.emitted.get(request_id, 0), more_s, plain_s)
        for request_id in planned.streams
    ]


def _of_stream(planned: Planned, request_id: str, num_tokens: int, more_s: float, plain_s: float) -> Brought:
    token_s = plain_s / planned.num_choosing
    drafted = planned.drafted.get(request_id, NO_PROPOSAL)
    brought_s = max(0, num_tokens - 1) * token_s - more_s * len(drafted.token_ids)
    looking_s, computing_s = planned.shares_s(request_id)
    gained_s = {Kind.COPIED: -looking_s, Kind.COMPUTED: -computing_s}
    is_computed = any(segment.drafter not in LOOKED_UP for segment in drafted.segments)
    gained_s[Kind.COMPUTED if is_computed else Kind.COPIED] += brought_s
    return Brought(planned.streams[request_id], gained_s, num_tokens * token_s)


def _more_s(planned: Planned, step: StepTimes, costs: CostTable) -> float:
    """Seconds per drafted token that the step was longer for its drafts."""
    num_drafted = step.num_tokens - planned.num_tokens
    if num_drafted <= 0:
        return 0.0
    step_s = costs.curve(planned.num_tokens, num_drafted, step.context)
    return float(step_s[-1] - step_s[0]) / num_drafted
