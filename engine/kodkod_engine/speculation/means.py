"""The means of speculation: what all modes may lose on drafts that are looked up, and on drafts that are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from kodkod_engine.api import Speculation
from kodkod_engine.speculation.allowance import COMPUTING_TERMS, COPYING_TERMS, Allowance
from kodkod_engine.speculation.calibration import Floats
from kodkod_engine.speculation.stream import Asked, Stream

BET = 0.5
"""Of all that may be lost on copies, the part that may be lost in one step: short drafts say more than a long one."""

FEW_TOKENS = 2
"""May be verified if all of the risk pays for them."""


class Kind(StrEnum):
    """How drafts are made."""

    COPIED = "copied"
    COMPUTED = "computed"


@dataclass(slots=True)
class Brought:
    """What a step brought one stream. All in seconds of the cost table."""

    stream: Stream
    gained_s: dict[Kind, float]
    """Negative where it lost."""
    decoded_s: float
    """What plain decoding takes for its tokens."""

    @property
    def total_s(self) -> float:
        """Of all kinds."""
        return sum(self.gained_s.values())

    @property
    def unpaid_s(self) -> float:
        """The part of a loss that its own balance does not cover."""
        return max(0.0, -self.total_s - max(0.0, self.stream.balance_s))


_TERMS = {Kind.COPIED: COPYING_TERMS, Kind.COMPUTED: COMPUTING_TERMS}


class Means:
    """An allowance for each kind of draft in each mode, beside the balances of streams. Seconds of the cost table."""

    def __init__(self, *, is_open_ended: bool = False) -> None:
        """`is_open_ended`: any loss is borne."""
        self._allowances = {
            (kind, mode): Allowance(terms, is_open_ended=is_open_ended)
            for kind, terms in _TERMS.items()
            for mode in Speculation
        }

    def risk_s(self, kind: Kind, asked: Sequence[Asked], plain_s: float) -> float:
        """What may be lost on drafts of a kind in a step with these streams."""
        gained_s: dict[Speculation, float] = {}
        for one in asked:
            mode = one.stream.mode
            gained_s[mode] = gained_s.get(mode, 0.0) + max(0.0, one.stream.balance_s)
        return sum(self._allowances[kind, mode].risk_s(own_s, plain_s) for mode, own_s in gained_s.items())

    def steps_until(self, kind: Kind, risk_s: float, one: Asked, plain_s: float) -> float:
        """Plain tokens until so much may be lost on one stream."""
        missing_s = risk_s - self.risk_s(kind, [one], plain_s)
        return self._allowances[kind, one.stream.mode].steps_until(missing_s, plain_s)

    def rested(self, asked: Sequence[Asked], num_steps: int, plain_s: float) -> None:
        """So many plain steps went by."""
        for mode in {one.stream.mode for one in asked}:
            for kind in Kind:
                self._allowances[kind, mode].settle(0.0, 0.0, num_steps * plain_s, plain_s)

    def settle(self, brought: Sequence[Brought], plain_s: float) -> None:
        """What a step brought its streams, by the kind of draft; see `Allowance.settle`."""
        for mode in {one.stream.mode for one in brought}:
            share_losses([one for one in brought if one.stream.mode == mode])
        for one in brought:
            for kind, own_s in one.gained_s.items():
                allowance = self._allowances[kind, one.stream.mode]
                one.stream.balance_s = allowance.settle(one.stream.balance_s, own_s, one.decoded_s, plain_s)


def share_losses(brought: Sequence[Brought]) -> None:
    """What a stream lost beyond its balance is paid by those beside it, whose balances were staked with its own."""
    losses_s = [one.unpaid_s for one in brought]
    spare_s = [max(0.0, one.stream.balance_s + one.total_s) for one in brought]
    shared_s = min(sum(losses_s), sum(spare_s))
    if shared_s <= 0:
        return
    for one, lost_s, left_s in zip(brought, losses_s, spare_s, strict=True):
        worst, best = min(one.gained_s, key=one.gained_s.__getitem__), max(one.gained_s, key=one.gained_s.__getitem__)
        one.gained_s[worst] += shared_s * lost_s / sum(losses_s)
        one.gained_s[best] -= shared_s * left_s / sum(spare_s)


def num_bought(step_s: Floats, num_forced: int, risk_s: float) -> int:
    """How many drafted tokens, besides forced ones, may be in vain: as many as a part of the risk pays, or a few.

    Args:
        step_s: seconds of a step with 0, 1, 2, ... drafted tokens.
        num_forced: of these, those that are certain.
        risk_s: what may be lost.
    """
    beyond = step_s[min(num_forced, len(step_s) - 1) :]
    many, few = (int(np.searchsorted(beyond, beyond[0] + each, side="right")) - 1 for each in (BET * risk_s, risk_s))
    return max(0, many, min(few, FEW_TOKENS))
