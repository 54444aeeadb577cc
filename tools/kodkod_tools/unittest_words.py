"""unittest, for projects without pytest: how it names tests, and what it says of a run."""

from __future__ import annotations

import re

from pydantic import JsonValue

_RAN = re.compile(r"^Ran (\d+) tests?", re.MULTILINE)
_COUNTS = re.compile(r"(failures|errors|skipped|unexpected successes)=(\d+)")


def dotted(target: str) -> str:
    """`tests/test_a.py::A::test_x` as unittest wants it: `tests.test_a.A.test_x`; a plain file as it is."""
    path, *rest = target.split("::")
    return ".".join([path.removesuffix(".py").replace("/", "."), *rest]) if rest else path


def num_run(output: str) -> int:
    """How many tests were run; 0 where nothing is said of it. Tests may say so of others, but not as the last."""
    ran = _RAN.findall(output)
    return int(ran[-1]) if ran else 0


def has_counted(output: str) -> bool:
    """Whether a run came to its end and says how many tests it was, be it none."""
    return _RAN.search(output) is not None


def facts(output: str, ran: int) -> dict[str, JsonValue]:
    """The counts of a run; see `run_tests.Test`."""
    last = output[output.rfind("Ran ") :]
    counts = {name: int(number) for name, number in _COUNTS.findall(last)}
    failed, errors, skipped = counts.get("failures", 0), counts.get("errors", 0), counts.get("skipped", 0)
    failed += counts.get("unexpected successes", 0)
    return {"passed": ran - failed - errors - skipped, "failed": failed, "errors": errors, "skipped": skipped}
