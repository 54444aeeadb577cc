"""What is planted can be undone by a plausible edit; features and clues say what they should."""

from __future__ import annotations

import ast
from random import Random

import pytest

from kodkod_agent.progress import Suspect
from kodkod_app.nano.faults import Candidates, FaultKind
from kodkod_app.nano.faults.sites import Source
from kodkod_app.nano.ranking.evidence import Failure, clues, places
from kodkod_app.nano.ranking.features import FileView, features, tokens
from kodkod_app.nano.ranking.plausible import plausible_edits, plausible_in
from kodkod_app.nano.spans import applied
from kodkod_app.nano.weighted_faults import draw_weighted

CODE = '''\
class Basket:
    """Things and their prices."""

    def __init__(self, prices, limit=3):
        self.prices = prices
        self.limit = limit

    def total(self, names, factor):
        """Of some."""
        found = 0
        for name in names:
            if name in self.prices and found + 1 <= self.limit:
                found += self.prices[name] * factor
        return min(found, factor)

    async def later(self, other):
        await other.load(self.limit, 0)
        return not other.prices or self.total(other.names, 1)
'''
EVERY_LINE = range(1, CODE.count("\n") + 2)


def planted(number):
    """Faults of all kinds that the code admits."""
    rng, candidates = Random(number), Candidates(CODE)
    while (fault := draw_weighted(candidates, rng)) is not None:
        yield fault


@pytest.mark.parametrize("number", range(3))
def test_the_repair_of_every_fault_is_plausible(number):
    kinds, missed = set(), []
    for fault in list(planted(number))[:80]:
        if fault.kind is FaultKind.DROPPED_STATEMENT:
            continue
        kinds.add(fault.kind)
        broken = applied(CODE, fault.edit)
        found = plausible_edits(Source(broken), EVERY_LINE)
        if CODE not in {applied(broken, edit.edit) for edit in found if edit.line == fault.repair.line}:
            missed.append(fault)
    assert len(kinds) >= 8
    assert len(missed) <= 1, missed


def test_each_changes_one_line_and_most_parse():
    found = plausible_in(CODE, EVERY_LINE)
    changed = [applied(CODE, edit.edit) for edit in found]
    assert len(set(changed)) == len(changed) > 60
    for edit, text in zip(found, changed, strict=True):
        differing = [
            n for n, pair in enumerate(zip(CODE.split("\n"), text.split("\n"), strict=True), 1) if len(set(pair)) == 2
        ]
        assert differing == [edit.line]
        assert text.split("\n")[edit.line - 1] == edit.after
    assert sum(_parses(text) for text in changed) > 0.9 * len(changed)


def _parses(text):
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def test_nothing_is_plausible_where_nothing_parses():
    assert plausible_in("def f(:\n", [1]) == []


def test_a_change_and_its_opposite_have_opposite_runs_of_tokens():
    there = next(edit for edit in plausible_in(CODE, [12]) if edit.after.count("or found"))
    back_code = CODE.replace("prices and found", "prices or found")
    back = next(edit for edit in plausible_in(back_code, [12]) if edit.after.count("and found"))
    one, other = features(FileView(Source(CODE)), there), features(FileView(Source(back_code)), back)
    opposite = [feature for feature in one if other.get(feature) == -one[feature]]
    assert len(opposite) > 15
    assert features(FileView(Source(CODE)), there) == one


def test_tokens_of_a_line_leave_its_comment_out():
    assert tokens("    x += 'a # b'  # c") == ["x", "+=", "'a # b'"]
    assert tokens("") == []


TOLD = """FAILED tests/test_basket.py::test_total
basket.py:13 in total: found += self.prices[name] * factor
  KeyError: 'apple'

Run by the failing tests, most suspicious first:
basket.py:8-14 total: 13 12 11 10 14

1 failed in 0.1 s [exit code 1]"""


def test_clues_know_the_place_and_the_failure():
    failure = Failure(TOLD)
    assert (failure.errors, failure.frames) == (("KeyError",), {("basket.py", 13)})
    assert (failure.test, failure.functions) == ("test_total", {"total"})
    source = Source(CODE)
    found = places([Suspect("basket.py", 8, 14, (13, 12, 11, 10, 14), "total")], "basket.py", source)
    assert set(found) == set(range(8, 15))
    assert (found[13].line_rank, found[12].line_rank, found[8].line_rank) == (0, 1, None)
    edit = next(edit for edit in plausible_edits(source, found) if edit.line == 13)
    told = set(clues(edit, found[13], failure))
    assert {("kind", edit.kind), ("frame", True, True), ("tested", True)} <= told
    assert ("error", edit.kind, "KeyError") in told
