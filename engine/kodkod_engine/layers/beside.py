"""Work that a CUDA device does on a second stream, beside what comes next.

The experts of a layer are needed at its end alone, and a turn of some hundred tokens reads all of them: that waits for
memory, while the attention beside it waits for arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import TracebackType

import torch
from torch import Tensor

from kodkod_engine.layers.packed import Slot

MAX_TOKENS = 1024
"""Of a step that is shared out so: a stream keeps what memory it takes, and longer steps leave arithmetic no gaps."""


class Beside:
    """Where the second stream works: `with` it goes on from where the first is, `join` has the first wait for it.

    What is made within may be used after `join`, and must not be kept longer than until the next time.
    """

    def __init__(self, x: Tensor, weights: Sequence[Slot]) -> None:
        """Where nothing is gained, or too much memory would be taken, the work is done in its turn.

        Args:
            x: what the work reads, [tokens, ...].
            weights: that it reads too; packed ones are unpacked in large pieces.
        """
        is_small = len(x) <= MAX_TOKENS and all(isinstance(weight, Tensor) for weight in weights)
        takes_part = x.is_cuda and is_small and not torch.is_grad_enabled()
        self._stream = _second_stream(x.device) if takes_part else None
        self._x = x  # its memory may not be given away before the work is done

    def __enter__(self) -> None:
        if self._stream is not None:
            self._first = torch.cuda.current_stream(self._stream.device)
            self._stream.wait_stream(self._first)
            torch.cuda.set_stream(self._stream)

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            torch.cuda.set_stream(self._first)

    def join(self) -> None:
        """What is launched from here on comes after the work."""
        if self._stream is not None:
            self._first.wait_stream(self._stream)


@cache
def _second_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
