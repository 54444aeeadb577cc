"""Small faults in Python functions, planted by syntax tree with the formatting kept, and the edits that undo them."""

from __future__ import annotations

from kodkod_app.nano.faults.kinds import Fault, FaultKind
from kodkod_app.nano.faults.planting import Candidates, all_faults, inverse_edits, plant

__all__ = ["Candidates", "Fault", "FaultKind", "all_faults", "inverse_edits", "plant"]
