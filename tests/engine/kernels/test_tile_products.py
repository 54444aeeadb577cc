"""Products of weight rows with tiles of tokens, in every shape and order: fp32, which each processor has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba import njit

from kodkod_engine.kernels.tile_products import (
    FEW_REGISTERS,
    SHAPES,
    TOKENS_PER_TILE,
    products_by_row,
    products_by_token,
)

ROWS, SIZE = 40, 24


def _aligned(*shape: int) -> Any:
    """fp32 that starts at a multiple of 64 bytes."""
    flat = np.empty(int(np.prod(shape)) + TOKENS_PER_TILE, np.float32)
    first = -flat.ctypes.data // 4 % TOKENS_PER_TILE
    return flat[first : first + int(np.prod(shape))].reshape(shape)


def _run(products: Any) -> Any:
    @njit
    def run(weight: Any, x: Any, tile: int, out: Any) -> None:
        products(weight, 3, 17, weight, 0, 0, x, tile, out)

    return run


@pytest.mark.parametrize("shape", [*SHAPES, FEW_REGISTERS])
@pytest.mark.parametrize("lies_apart", [False, True])
def test_fp32_products_equal_those_of_numpy(shape: tuple[int, int], lies_apart: bool) -> None:
    num_rows, num_tiles = shape
    draws = np.random.default_rng(1)
    weight = draws.standard_normal((ROWS, SIZE), np.float32)
    tokens = draws.standard_normal((3 * TOKENS_PER_TILE, SIZE), np.float32)
    if lies_apart:  # words of all tiles side by side
        x = _aligned(SIZE, 3, TOKENS_PER_TILE)
        x[:] = tokens.T.reshape(SIZE, 3, TOKENS_PER_TILE)
        x = x.transpose(1, 0, 2)
    else:
        x = _aligned(3, SIZE, TOKENS_PER_TILE)
        x[:] = tokens.reshape(3, TOKENS_PER_TILE, SIZE).transpose(0, 2, 1)
    rows = [*range(3, 3 + num_rows // 2), *range(20, 20 + num_rows // 2)]
    chosen = tokens[TOKENS_PER_TILE : TOKENS_PER_TILE * (1 + num_tiles)]
    wanted = weight[rows] @ chosen.T
    out = np.empty(wanted.size, np.float32)
    _run(products_by_row[shape])(weight, x, 1, out)
    np.testing.assert_allclose(out.reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-5)
    _run(products_by_token[shape])(weight, x, 1, out)
    np.testing.assert_allclose(out.reshape(wanted.T.shape), wanted.T, rtol=1e-5, atol=1e-5)
