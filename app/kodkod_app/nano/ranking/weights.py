"""The weights of features: two tables of small numbers, indexed by the low bits of a feature's hash.

code      int8 [2 ** bits]     of what an edit changes (`features.py`), in units of `code_scale`
clues     int8 [2 ** bits]     of what the failing tests say of it (`evidence.py`), in units of `clue_scale`
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from kodkod_app.nano.ranking.features import Features

BUNDLED = "weights.npz"


@dataclass(frozen=True, slots=True)
class Weights:
    """Scores are sums of weights: unnormalised natural log-probabilities."""

    code: npt.NDArray[np.floating[Any]]
    clues: npt.NDArray[np.floating[Any]]
    share: float
    """Of the code's score in the whole."""

    @classmethod
    def bundled(cls) -> Self:
        """Those that come with the program."""
        with (files(__package__) / BUNDLED).open("rb") as file:
            return cls._of(np.load(file))

    @classmethod
    def read(cls, path: Path) -> Self:
        """From a file."""
        return cls._of(np.load(path))

    @classmethod
    def _of(cls, found: Any) -> Self:
        code = found["code"].astype(np.float32) * float(found["code_scale"])
        return cls(code, found["clues"].astype(np.float32) * float(found["clue_scale"]), float(found["share"]))

    def write(self, path: Path) -> None:
        """In eight bits each."""
        code, code_scale = _quantised(self.code)
        clues, clue_scale = _quantised(self.clues)
        np.savez_compressed(
            path, code=code, code_scale=code_scale, clues=clues, clue_scale=clue_scale, share=np.float32(self.share)
        )

    def of_code(self, found: Features) -> float:
        """The score of what an edit changes."""
        mask = len(self.code) - 1
        return float(sum(self.code[feature & mask] * count for feature, count in found.items()))

    def of_clues(self, found: Iterable[int]) -> float:
        """The score of what the tests say."""
        mask = len(self.clues) - 1
        return float(sum(self.clues[feature & mask] for feature in found))


def _quantised(weights: npt.NDArray[np.floating[Any]]) -> tuple[npt.NDArray[np.int8], np.float32]:
    """Weights beyond the 99.99th percentile are cut."""
    used = np.abs(weights[weights != 0])
    most = float(np.quantile(used, 0.9999)) if used.size else 1.0
    scale = max(most, 1e-6) / 127
    return np.clip(np.rint(weights / scale), -127, 127).astype(np.int8), np.float32(scale)
