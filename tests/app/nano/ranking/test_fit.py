"""Weights learnt from cases in which one feature tells, kept in eight bits, and used by the ranker."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from kodkod_agent.progress import Suspect
from kodkod_agent.ranking import Evidence
from kodkod_app.nano.ranking import fit
from kodkod_app.nano.ranking.cases import CaseArrays, Cases, simulate
from kodkod_app.nano.ranking.ranker import PlausibleEdits, plausible_for
from kodkod_app.nano.ranking.weights import Weights

CLIP = """\
def clip(value, low, high):
    if value < low:
        return low
    if value > high:
        return low
    return value
"""
TOLD = """FAILED test_clip.py::test_top
test_clip.py:5 in test_top: assert clip(5, 1, 3) == 3
  AssertionError: assert 1 == 3

Run by the failing tests, most suspicious first:
clip.py:1-6 clip: 5 4 2

1 failed, 2 passed in 0.1 s [exit code 1]"""
EVIDENCE = Evidence([Suspect("clip.py", 1, 6, (5, 4, 2), "clip")], TOLD, {"clip.py": CLIP})


def told_by(feature, clue, number, seed):
    """Cases of which the repair alone has a feature and a clue."""
    rng, cases = Random(seed), Cases()
    for case in range(number):
        repair = rng.randrange(5)
        for edit in range(5):
            noise = {rng.randrange(100, 200): rng.choice([-1, 1]) for _ in range(3)}
            is_repair = edit == repair
            cases.add_edit({**noise, **({feature: 1} if is_repair else {})}, [clue if is_repair else 7, 8])
        cases.end(repair, "negation", f"package-{case % 3}")
    return cases


@pytest.fixture
def cases(tmp_path):
    told_by(1, 2, 60, 0).write(tmp_path / "one.npz")
    told_by(1, 2, 30, 1).write(tmp_path / "two.npz")
    return CaseArrays.read([tmp_path / "one.npz", tmp_path / "two.npz"])


def test_what_tells_is_learnt_and_survives_eight_bits(cases, tmp_path):
    assert len(cases) == 90
    assert cases.case_ends[-1] == 450
    code = fit.fit_code(cases, 3)
    clues, share = fit.fit_clues(cases, fit.code_scores(cases, code))
    weights = Weights(code, clues, share)
    assert fit.recall(fit.ranks(cases, weights), 1) == 1.0
    assert fit.recall(fit.left_out_ranks(cases, code), 1) == 1.0
    assert fit.blind_recall(cases, 2) == pytest.approx(0.4)
    weights.write(tmp_path / "weights.npz")
    again = Weights.read(tmp_path / "weights.npz")
    assert fit.recall(fit.ranks(cases, again), 1) == 1.0
    assert np.abs(again.code - code).max() < np.abs(code).max() / 100
    assert fit.by_kind(cases, fit.ranks(cases, again), [1]) == {"negation": (90, [1.0])}


def test_ties_count_against_the_repair(cases):
    assert set(fit.ranks_of(cases, np.zeros(len(cases.code_ends) - 1))) == {4}


def test_simulated_cases_hold_their_repair(module):
    found = simulate([module], 3, 12)
    assert len(found) == 12
    assert set(found.repair) == {0}
    again = simulate([module], 3, 12)
    assert (found.code, found.case_ends, found.kinds) == (again.code, again.case_ends, again.kinds)


def test_the_bundled_weights_know_a_plain_slip():
    ranker = PlausibleEdits.bundled()
    forgotten = CLIP.replace("return value", "value")
    evidence = Evidence([Suspect("clip.py", 1, 6, (6, 4, 2), "clip")], TOLD, {"clip.py": forgotten})
    (best, *_) = ranker.ranked(evidence, 12)
    assert (best.path, best.line, best.old, best.new) == ("clip.py", 6, "value", "return value")
    found = ranker.ranked(EVIDENCE, 12)
    assert len(found) == 12
    assert all(one.logprob <= 0 for one in found)
    assert [one.logprob for one in found] == sorted((one.logprob for one in found), reverse=True)
    assert ranker.ranked(EVIDENCE, 12) is found
    assert len(plausible_for(EVIDENCE.suspects, EVIDENCE.texts)) > len(found)


@pytest.mark.parametrize("texts", [{}, {"clip.py": "def clip(:\n"}, {"clip.py": "x = 1\r\n"}])
def test_nothing_is_said_of_what_cannot_be_read(texts):
    assert PlausibleEdits.bundled().ranked(Evidence(EVIDENCE.suspects, TOLD, texts), 12) == []
