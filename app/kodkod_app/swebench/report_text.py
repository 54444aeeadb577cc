"""The figures of a run for people, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kodkod_app.statistics import Share

Entry = Mapping[str, Any]
_SETTING = ("model", "candidates", "seed", "temperature", "max_turns", "max_tokens", "timeout_s", "sandbox", "workers")


def told(found: Entry) -> str:
    """The whole of it."""
    parts = [*_head(found), *_resolved(found), *_ends(found), *_costs(found["cost"])]
    if "compared" in found:
        parts += _comparison(found["compared"])
    return "\n".join([*parts, ""])


def _head(found: Entry) -> Iterator[str]:
    setting = found["setting"]
    yield f"# {setting['name']} on {found['instances']} instances of {setting['dataset']}"
    yield ""
    yield f"{', '.join(f'{name} {setting[name]}' for name in _SETTING)}; kodkod {setting['version']}"
    yield f"Rows {setting['dataset_sha256'][:12]}. Graded by {'; '.join(found['harness']) or 'nobody yet'}."
    if found["graded"] < found["instances"] * found["runs"]:
        missing = found["instances"] * found["runs"] - found["graded"]
        yield f"**{missing} predictions are not graded** and count as not resolved: `kodkod swebench grade`."
    if found["places_disagree_on"]:
        yield f"**With and without Docker the verdicts differ** on {', '.join(found['places_disagree_on'])}."
    yield ""


def _resolved(found: Entry) -> Iterator[str]:
    yield "| | resolved, with Wilson's 95 % interval |"
    yield "|---|---|"
    for run, share in found["resolved_by_run"].items():
        yield f"| run {run} | {_share(share)} |"
    for name, share in found["controls"].items():
        yield f"| control: {name} patch | {_share(share)} |"
    yield ""
    mean = found["resolved_mean"]
    if mean["deviation"] is not None:
        yield (
            f"Mean of {mean['runs']} runs: {100 * mean['mean']:.1f} %, "
            f"standard deviation {100 * mean['deviation']:.1f}."
        )
        yield ""
        yield "| k | at least once in k runs (pass@k) | every time (pass^k) |"
        yield "|---|---|---|"
        for entry in found["by_k"]:
            yield f"| {entry['k']} | {100 * entry['pass_at_k']:.1f} % | {100 * entry['pass_hat_k']:.1f} % |"
        yield ""


def _ends(found: Entry) -> Iterator[str]:
    for title, table in (("outcome", found["outcomes"]), ("exit status", found["exit_statuses"])):
        yield f"| {title} | attempts |"
        yield "|---|---|"
        yield from (f"| {name} | {count} |" for name, count in table.items())
        yield ""


def _costs(cost: Entry) -> Iterator[str]:
    gpu = f"{cost['gpu_seconds']:.0f} GPU seconds" if cost["gpu_seconds"] else "no GPU"
    yield (
        f"Cost: {cost['prompt_tokens']} prompt tokens ({100 * cost['reused_share']:.0f} % reused), "
        f"{cost['generated_tokens']} generated; {cost['turns']} turns, {cost['calls']} calls "
        f"({cost['malformed_calls']} malformed), {cost['test_runs']} test runs."
    )
    yield (
        f"Time: {cost['median_attempt_seconds']:.1f} s per attempt (median), {cost['attempt_seconds']:.0f} s together; "
        f"the engine worked {cost['engine_seconds']:.1f} s; {gpu}."
    )


def _comparison(pairs: Entry) -> Iterator[str]:
    first, second = pairs["names"]
    yield ""
    yield f"## {first} against {second}, on the {pairs['shared']} instances both were given"
    yield ""
    yield f"{first}: {_share(pairs['first'])}; {second}: {_share(pairs['second'])}."
    yield (
        f"Both {pairs['both']}, neither {pairs['neither']}, only the first {pairs['only_first']}, only the second "
        f"{pairs['only_second']}: McNemar's exact test, p = {pairs['p_value']:.4f}."
    )


def _share(entry: Entry) -> str:
    return str(Share(entry["count"], entry["total"]))
