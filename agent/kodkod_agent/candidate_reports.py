"""What is reported of candidates: each with what is its own, and all together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kodkod_agent.report import CandidateReport, RunReport
from kodkod_agent.state import Status
from kodkod_agent.tally import Tally


def first_candidate(report: RunReport, tally: Tally) -> CandidateReport:
    """The run itself."""
    return candidate(1, report, tally, None, report.seconds, None)


def candidate(
    number: int, report: RunReport, tally: Tally, before: RunReport | None, seconds: float, logprob: float | None
) -> CandidateReport:
    """What is its own: without what the run had used before it left."""
    used = before or RunReport("", Status.RUNNING, "", "", "")
    return CandidateReport(
        number=number,
        session_id=report.session_id,
        status=report.status,
        reason=_reason(report, tally),
        summary=report.summary,
        change=tally.change,
        diff=report.diff,
        turns=report.turns - used.turns,
        calls=tally.calls,
        malformed_calls=tally.malformed_calls,
        test_runs=tally.test_runs,
        generated_tokens=report.generated_tokens - used.generated_tokens,
        prompt_tokens=report.prompt_tokens - used.prompt_tokens,
        reused_tokens=report.reused_tokens - used.reused_tokens,
        seconds=seconds,
        logprob=logprob,
    )


def _reason(report: RunReport, tally: Tally) -> str:
    """Why it ended; one that undid what it tried did more than nothing."""
    undone = report.status is Status.UNVERIFIED and tally.change and not report.diff
    return "what it tried was taken back" if undone else report.reason


def total(report: RunReport, tried: Sequence[CandidateReport], more_test_runs: int = 0) -> RunReport:
    """The report of all together."""
    return replace(
        report,
        turns=sum(one.turns for one in tried),
        generated_tokens=sum(one.generated_tokens for one in tried),
        prompt_tokens=sum(one.prompt_tokens for one in tried),
        reused_tokens=sum(one.reused_tokens for one in tried),
        test_runs=sum(one.test_runs for one in tried) + more_test_runs,
        candidates=tuple(tried),
    )
