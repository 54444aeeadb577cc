"""How well a model repairs: faults planted in published packages, the whole agent on each, two controls beside it."""
