"""A sequence's latents brought into the device's cache while the kernels before its attention run.

Those kernels wait for one another more than for memory. Nothing is waited for here, and nothing depends on it.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from kodkod_engine.kernels.gpu.tiles import INTERPRETED

LINE_BYTES = 128
"""Of the device's caches."""

PROGRAMS, LANES = 66, 256
"""Half of an H200's processors, so that there is room beside them."""


@triton.jit
def _kernel(
    latents,
    blocks,
    positions,
    WIDTH: tl.constexpr,
    SIZE: tl.constexpr,
    VALUES: tl.constexpr,
    LINES: tl.constexpr,
    LANES: tl.constexpr,
):
    count = tl.load(positions).to(tl.int32) * LINES  # of what steps before this one left
    for first in range(tl.program_id(0) * LANES, count, tl.num_programs(0) * LANES):
        line = tl.minimum(first + tl.arange(0, LANES), count - 1)
        place = line // LINES
        slot = tl.load(blocks + place // SIZE) * SIZE + place % SIZE
        at = (latents + slot * WIDTH + line % LINES * VALUES).to(tl.int64)
        if not INTERPRETED:
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1
            )


def bring_near(latents: Tensor, blocks: Tensor, positions: Tensor, block_size: int) -> None:
    """Ask for one sequence's rows of a cache layer.

    Args:
        latents: [all slots, width], contiguous.
        blocks: int64 [1, context / block size], as `latent_decode` takes them.
        positions: int64 [new], of its new tokens.
        block_size: places of a block.
    """
    width = latents.shape[1]
    values = LINE_BYTES // latents.itemsize
    grid: Any = (PROGRAMS,)
    sizes = {"WIDTH": width, "SIZE": block_size, "VALUES": values, "LINES": -(-width // values), "LANES": LANES}
    _kernel[grid](latents, blocks, positions, **sizes)
