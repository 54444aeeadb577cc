import pytest

from timesheet import format_duration, parse_duration, round_up


@pytest.mark.parametrize(
    ("text", "minutes"), [("90", 90), ("45 min", 45), ("1h 30m", 90), ("2:15", 135), ("1 day", 480), ("2 Hours", 120)]
)
def test_reads_what_people_write(text, minutes):
    assert parse_duration(text) == minutes


@pytest.mark.parametrize("text", ["", "soon", "1h, 2m", "3 lightyears", "1:75"])
def test_refuses_what_is_no_duration(text):
    with pytest.raises(ValueError, match=r"is no|minutes in an hour"):
        parse_duration(text)


@pytest.mark.parametrize(("minutes", "text"), [(0, "0m"), (45, "45m"), (60, "1h"), (95, "1h 35m"), (-30, "-30m")])
def test_writes_them_short(minutes, text):
    assert format_duration(minutes) == text


def test_reads_what_it_writes():
    assert all(parse_duration(format_duration(minutes)) == minutes for minutes in range(600))


def test_rounds_up():
    assert [round_up(minutes) for minutes in (0, 1, 15, 16)] == [0, 15, 15, 30]
    assert round_up(61, step=30) == 90
