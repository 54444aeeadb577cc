"""What comes of it without a model: nothing changed, and edits tried blindly.

Controls and judge run the tests on the workshop's fork server, in a tree of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from kodkod_app.nano.broken import Instance
from kodkod_app.nano.runs import RunResult
from kodkod_app.nano.spans import Edit, EditDoesNotApply, applied
from kodkod_app.nano.workshop import Workshop
from kodkod_app.repair_eval.records import ControlResult

_RUN_TIMEOUT_S = 60.0


def mends(workshop: Workshop, instance: Instance, changes: Mapping[str, str]) -> bool:
    """Whether all tests of the instance's file pass that pass without the fault.

    Args:
        workshop: of the package.
        instance: what is wrong with it.
        changes: files that are not as in the broken package; text by path.
    """
    return is_sound(
        workshop.run({instance.path: instance.broken, **changes}, [instance.test_file], _RUN_TIMEOUT_S), workshop
    )


def is_sound(result: RunResult, workshop: Workshop) -> bool:
    """A run that came to its end, with tests in it of which none fails that is relied on."""
    passed = any(test.outcome == "passed" for test in result.trace.tests.values())
    collected = result.exit_code in (0, 1) and not any("::" not in name for name in result.failed)
    return collected and passed and not result.timed_out and not result.failed & workshop.baseline.seconds.keys()


def no_change(workshop: Workshop, instance: Instance) -> ControlResult:
    """The tests of the broken package as it is: a fault that this resolves was none."""
    return ControlResult(resolved=mends(workshop, instance, {}), tried_edits=0, edits=0)


def blind_search(
    workshop: Workshop, instance: Instance, edits: Sequence[tuple[str, Edit]], budget: int, seed: str
) -> ControlResult:
    """Try edits in random order until one mends it or the budget is met.

    Args:
        workshop: of the package.
        instance: what is wrong.
        edits: by path, those the agent has to choose from.
        budget: edits that may be tested.
        seed: of the order.
    """
    texts = {path: instance.broken if path == instance.path else workshop.read(path) for path, _ in edits}
    order = list(edits)
    Random(seed).shuffle(order)
    tried = 0
    for path, edit in order:
        if tried == budget:
            break
        try:
            changed = applied(texts[path], edit)
        except EditDoesNotApply:
            continue
        tried += 1
        if mends(workshop, instance, {path: changed}):
            return ControlResult(resolved=True, tried_edits=tried, edits=len(edits))
    return ControlResult(resolved=False, tried_edits=tried, edits=len(edits))
