"""Rows of a matrix by their numbers, wherever the matrix is."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def rows_of(table: Tensor, ids: Tensor) -> Tensor:
    """The rows of each token side by side.

    Args:
        table: [all rows, width], contiguous, where the ids are, or in pinned memory that their device reads.
        ids: int64 [tokens, rows of a token].

    Returns:
        [tokens, rows of a token * width], where the ids are.
    """
    if table.device == ids.device:
        return F.embedding(ids, table).flatten(1)
    from kodkod_engine.kernels.gpu.table_rows import table_rows

    return table_rows(table, ids.contiguous())
