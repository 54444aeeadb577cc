"""How the tokens after each row of a step are chosen where nothing restricts them, as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draws:
    """Sampling parameters row by row; see `api.SamplingParams`. On the host, or where the step is computed."""

    temperature: Tensor
    """float64 [rows]; 0 takes the most probable id, whatever the filters say."""
    top_k: Tensor
    """int64 [rows]; 0 keeps all."""
    top_p: Tensor
    """float64 [rows]."""
    min_p: Tensor
    """float64 [rows]."""
    points: Tensor
    """float64 [steps, rows] in [0, 1): where each draw falls in the cumulative sum, for so many steps in a row."""

    def to(self, device: torch.device) -> Draws:
        """With its tensors on a device."""
        parts = (self.temperature, self.top_k, self.top_p, self.min_p, self.points)
        return Draws(*(part.to(device) for part in parts))
