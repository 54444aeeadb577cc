"""Where compiled kernels are kept on machines that let nobody write beside their source."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path

VARIABLE = "NUMBA_CACHE_DIR"


def name_kernel_cache(environment: MutableMapping[str, str]) -> None:
    """Before numba is imported: name a folder of kodkod's own, unless one is named or numba's usual one will do.

    Beside the source is that, where it can be written to. In an installation of somebody else's numba would fall back
    on the person's home, and fail at the first kernel where that is not to be written to either.
    """
    spec = find_spec("kodkod_engine")
    if VARIABLE in environment or spec is None or spec.origin is None:
        return
    kernels = Path(spec.origin).parent / "kernels"
    kept = kernels / "__pycache__"
    if not os.access(kept if kept.is_dir() else kernels, os.W_OK):
        from kodkod_app import paths

        environment[VARIABLE] = str(paths.kernel_folder())
