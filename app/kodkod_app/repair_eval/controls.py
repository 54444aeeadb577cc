"""What comes of it without a model: nothing changed, and edits tried blindly."""

from __future__ import annotations

from random import Random

from kodkod_app.nano.faults import inverse_edits
from kodkod_app.nano.spans import Edit, EditDoesNotApply, applied
from kodkod_app.repair_eval.bench import Bench
from kodkod_app.repair_eval.instances import Instance
from kodkod_app.repair_eval.records import ControlResult


async def no_change(bench: Bench, instance: Instance) -> ControlResult:
    """Run the tests of the broken package as it is: a fault that this resolves was none."""
    outcome = await bench.run((instance.test_file,))
    return ControlResult(
        resolved=outcome.mends(instance.fault.failing_tests, instance.failed_before), tried_edits=0, edits=0
    )


async def blind_search(bench: Bench, instance: Instance, budget: int, seed: int) -> ControlResult:
    """Try inverse edits on the lines the failing tests run, in random order, until one mends it or the budget is met.

    Args:
        bench: broken; it is so again afterwards.
        instance: what is wrong.
        budget: edits that may be tested.
        seed: of the order, with the instance's key.
    """
    edits = _edits(bench, instance)
    Random(f"{seed} {instance.fault.key} blind").shuffle(edits)
    tried = 0
    for path, edit in edits:
        if tried == budget:
            break
        text = bench.read(path)
        try:
            changed = applied(text, edit)
        except EditDoesNotApply:
            continue
        tried += 1
        bench.write(path, changed)
        try:
            outcome = await bench.run((instance.test_file,))
        finally:
            bench.write(path, text)
        if outcome.mends(instance.fault.failing_tests, instance.failed_before):
            return ControlResult(resolved=True, tried_edits=tried, edits=len(edits))
    return ControlResult(resolved=False, tried_edits=tried, edits=len(edits))


def _edits(bench: Bench, instance: Instance) -> list[tuple[str, Edit]]:
    return [
        (path, edit)
        for path in sorted(instance.covered)
        if path in bench.package.modules
        for edit in inverse_edits(bench.read(path), instance.covered[path])
    ]
