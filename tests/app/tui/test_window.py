"""Which entries are to be mounted, wherever the reader is and whatever the entries' heights are."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from kodkod_app.tui import store as s
from kodkod_app.tui.heights import Heights
from kodkod_app.tui.window import MOST_FOLLOWED_LINES, OVERSCAN_SCREENS, SLACK_SCREENS, Sight, Window

WIDTH = 80
SCREEN = 20


def entries(lines: list[int]) -> tuple[Heights, Window]:
    """So many entries, each of so many lines."""
    heights = Heights()
    heights.fit([s.Note("note") for _ in lines], WIDTH)
    for number, height in enumerate(lines):
        heights.measure(number, height)
    return heights, Window(heights)


def settled(window: Window, sight: Sight) -> int:
    """Mount and remove until there is nothing to do; how often something was."""
    num_moves = 0
    while numbers := (window.missing(sight) or window.missing_around(sight)):
        if window.is_close(sight):
            window.grow(numbers)
        else:
            window.begin_anew(sight)
        num_moves += 1
        assert num_moves < 100
    window.let_go(sight)
    return num_moves


def seen(heights: Heights, sight: Sight) -> range:
    """Numbers of the entries that have a line on the screen."""
    top = heights.total - sight.screen_lines if sight.follows else sight.top
    first, last = heights.at(top), heights.at(top + sight.screen_lines - 1)
    return range(first, last + 1)


def test_the_end_is_mounted_first_and_only_near_it():
    heights, window = entries([2] * 1_000)
    sight = Sight(top=0, screen_lines=SCREEN, num_entries=1_000, follows=True)
    settled(window, sight)
    assert window.last == 1_000
    assert set(seen(heights, sight)) <= set(window.numbers)
    assert len(window.numbers) * 2 < SCREEN * (2 + 2 * OVERSCAN_SCREENS)
    assert window.room == (window.first * 2, 0)


def test_a_jump_leaves_nothing_between_mounted():
    _, window = entries([2] * 1_000)
    settled(window, Sight(0, SCREEN, 1_000, follows=True))
    middle = Sight(1_000, SCREEN, 1_000, follows=False)
    assert not window.is_close(middle)
    settled(window, middle)
    assert 480 < window.first < 500 < window.last < 530
    above, below = window.room
    assert above + 2 * len(window.numbers) + below == 2_000


def test_nothing_moves_while_half_of_what_should_be_around_is_there():
    _, window = entries([1] * 1_000)
    settled(window, Sight(500, SCREEN, 1_000, follows=False))
    before = window.numbers
    for lines in range(int(SCREEN * OVERSCAN_SCREENS / 2)):
        for top in (500 - lines, 500 + lines):
            assert settled(window, Sight(top, SCREEN, 1_000, follows=False)) == 0
    assert window.numbers == before


def test_what_is_far_goes_once_it_is_worth_it():
    _, window = entries([1] * 1_000)
    window.begin_at(300)
    window.grow(range(300, 700))
    assert window.far(Sight(500, SCREEN, 1_000, follows=False))
    gone = window.let_go(Sight(500, SCREEN, 1_000, follows=False))
    margin = int(SLACK_SCREENS * SCREEN)
    assert window.numbers == range(500 - margin, 500 + SCREEN + margin + 1)
    assert sorted(gone) == [number for number in range(300, 700) if number not in window.numbers]
    assert window.let_go(Sight(510, SCREEN, 1_000, follows=False)) == []


def test_while_the_end_is_followed_much_stays():
    _, window = entries([1] * 1_000)
    window.begin_at(1_000)
    window.grow(range(1_000 - MOST_FOLLOWED_LINES, 1_000))
    sight = Sight(0, SCREEN, 1_000, follows=True)
    assert window.far(sight) == []
    window.grow(range(1_000 - MOST_FOLLOWED_LINES - 1, window.first))
    assert window.far(sight)


def test_what_comes_while_the_end_is_followed_is_missing():
    heights, window = entries([2] * 10)
    sight = Sight(0, SCREEN, 10, follows=True)
    settled(window, sight)
    heights.fit([s.Note("note") for _ in range(12)], WIDTH)
    assert window.missing(replace(sight, num_entries=12)) == range(10, 12)


def test_without_entries_nothing_is_wanted():
    _, window = entries([])
    for follows in (True, False):
        assert settled(window, Sight(0, SCREEN, 0, follows)) == 0
    assert window.room == (0, 0)


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(st.integers(1, 60), min_size=1, max_size=80),
    looks=st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=8),
    screen_lines=st.integers(10, 60),
)
def test_wherever_the_reader_goes_what_is_seen_is_mounted_and_not_much_more(lines, looks, screen_lines):
    heights, window = entries(lines)
    for part, follows in looks:
        top = int(part * max(0, heights.total - screen_lines))
        sight = Sight(top, screen_lines, len(lines), follows)
        settled(window, sight)
        assert set(seen(heights, sight)) <= set(window.numbers)
        assert window.far(sight) == []
        mounted_lines = heights.start(window.last) - heights.start(window.first)
        most = max(MOST_FOLLOWED_LINES, screen_lines * (1 + 2 * 1.5 * SLACK_SCREENS)) + 3 * max(lines)
        assert mounted_lines <= most
