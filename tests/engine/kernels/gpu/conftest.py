"""Triton kernels on whatever is there: a CUDA device, else Triton's interpreter on the processor."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
    if find_spec("triton") is not None:
        from kodkod_engine.kernels.gpu.interpreter import mend

        from .quick_interpreter import hasten

        mend()
        hasten()
