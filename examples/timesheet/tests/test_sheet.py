import pytest

from timesheet import Sheet


def test_adds_up():
    sheet = Sheet()
    sheet.add("garden", 600, 690)
    sheet.add("letters", 540, 585)
    assert sheet.total() == 135
    assert sheet.total("garden") == 90


def test_one_thing_follows_the_other():
    sheet = Sheet()
    sheet.add("letters", 540, 600)
    sheet.add("garden", 600, 660)
    assert sheet.total() == 120


def test_two_things_at_a_time_are_refused():
    sheet = Sheet()
    sheet.add("letters", 540, 600)
    with pytest.raises(ValueError, match="garden is at the same time as letters"):
        sheet.add("garden", 599, 660)


def test_tells_what_was_done():
    sheet = Sheet()
    sheet.add("letters", 540, 600)
    assert sheet.at(540) == "letters"
    assert sheet.at(600) is None


def test_reports_the_longest_first():
    sheet = Sheet()
    sheet.add("letters", 540, 600)
    sheet.add("garden", 700, 795)
    assert sheet.report() == ["garden: 1h 35m", "letters: 1h"]
