import pytest

from timesheet import Span, gaps, merge


def test_a_span_has_a_length():
    assert Span(60, 90).minutes == 30


def test_a_span_cannot_end_before_it_begins():
    with pytest.raises(ValueError, match="cannot end before it begins"):
        Span(90, 60)


def test_the_end_is_not_part_of_it():
    assert Span(60, 90).contains(60)
    assert not Span(60, 90).contains(90)


def test_overlapping():
    assert Span(60, 90).overlaps(Span(80, 100))
    assert Span(80, 100).overlaps(Span(60, 90))
    assert not Span(60, 90).overlaps(Span(120, 150))


def test_merging_joins_what_touches():
    assert merge([Span(90, 100), Span(60, 90), Span(200, 210)]) == [Span(60, 100), Span(200, 210)]


def test_merging_keeps_the_longer_end():
    assert merge([Span(0, 100), Span(10, 20)]) == [Span(0, 100)]


def test_gaps():
    day = Span(0, 100)
    assert gaps([Span(20, 30), Span(25, 50)], day) == [Span(0, 20), Span(50, 100)]
    assert gaps([Span(0, 100)], day) == []
    assert gaps([], day) == [day]
