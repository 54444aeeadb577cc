"""Triton kernels on whatever is there: a CUDA device, else Triton's interpreter on the processor."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined
