"""Which experts a model's routers choose, watched while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from kodkod_engine.backends.native import NativeEngine
from kodkod_engine.layers.moe import MixtureOfExperts
from kodkod_engine.models import longcat_flash


@contextmanager
def experts_of_steps(engine: NativeEngine, count: Callable[[MixtureOfExperts, Tensor], int]) -> Iterator[list[int]]:
    """What `count` makes of the experts chosen, per layer and step, while inside.

    Steps go through the modules, whose choice shows.
    """
    counts: list[int] = []
    layers = [layer.experts for layer in engine.runner.loaded.model.dual_layers]
    hooks = [
        owner.router.register_forward_hook(lambda _module, _in, out, owner=owner: counts.append(count(owner, out[0])))
        for owner in layers
    ]
    admits = longcat_flash.step_arrays
    longcat_flash.step_arrays = lambda *_args: None
    try:
        yield counts
    finally:
        longcat_flash.step_arrays = admits
        for hook in hooks:
            hook.remove()
