"""What a device found quickest, kept beside its compiled kernels, so that the next process takes the same ways.

Ways round differently. A replay is exact only where each step goes the way it went, which timings alone do not promise;
and a start that times nothing is quicker.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from functools import cache
from pathlib import Path

import torch
import triton


class KeptWays:
    """One file of names by key; of another device, compiler or version of the kernels there is another file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, device: torch.device) -> KeptWays:
        """Those of a CUDA device."""
        facts = torch.cuda.get_device_properties(device)
        what = facts.name, facts.major, facts.minor, torch.__version__, triton.__version__, _kernels_hash()
        name = hashlib.sha256(repr(what).encode()).hexdigest()[:16]
        return cls(Path(triton.knobs.cache.dir) / f"kodkod-ways-{name}.json")

    def read(self) -> dict[str, str]:
        """Empty where there is no such file, or none that can be read: then ways are timed again."""
        try:
            kept = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        is_whole = isinstance(kept, dict) and all(isinstance(name, str) for name in kept.values())
        return kept if is_whole else {}

    def add(self, key: str, name: str) -> None:
        """Whole or not at all; a folder that cannot be written to keeps nothing."""
        ways = self.read() | {key: name}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=self._path.parent, suffix=".part")
        except OSError:
            return
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(ways, file, indent=1)
            Path(part).replace(self._path)
        except OSError:
            Path(part).unlink(missing_ok=True)


@cache
def _kernels_hash() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
