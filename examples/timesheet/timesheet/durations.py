"""Durations as people write them: `1h 30m`, `45 min`, `90`, `2:15`."""

from __future__ import annotations

import re

MINUTES = {"m": 1, "min": 1, "h": 60, "hour": 60, "d": 480, "day": 480}
"""A day has eight hours of work."""
_PART = re.compile(r"\s*(\d+)\s*([a-z]+)", re.IGNORECASE)
_CLOCK = re.compile(r"(\d+):(\d\d)")


def parse_duration(text: str) -> int:
    """Minutes. A number alone counts minutes.

    Raises:
        ValueError: it cannot be read.
    """
    text = text.strip()
    if text.isdigit():
        return int(text)
    if clock := _CLOCK.fullmatch(text):
        hours, minutes = int(clock[1]), int(clock[2])
        if minutes >= 60:
            raise ValueError(f"{text!r} has {minutes} minutes in an hour")
        return hours * 60 + minutes
    return _parse_parts(text)


def _parse_parts(text: str) -> int:
    total = end = 0
    for part in _PART.finditer(text):
        if part.start() != end:
            break
        unit = part[2].lower()
        unit = unit if unit in MINUTES else unit.rstrip("s")
        if unit not in MINUTES:
            raise ValueError(f"{part[2]!r} is no unit of time")
        total += int(part[1]) * MINUTES[unit]
        end = part.end()
    if not end or text[end:].strip():
        raise ValueError(f"{text!r} is no duration")
    return total


def format_duration(minutes: int) -> str:
    """The shortest way to write it: `1h 30m`, `2h`, `45m`."""
    if minutes < 0:
        return "-" + format_duration(-minutes)
    hours, rest = divmod(minutes, 60)
    parts = [f"{hours}h"] if hours else []
    if rest or not hours:
        parts.append(f"{rest}m")
    return " ".join(parts)


def round_up(minutes: int, step: int = 15) -> int:
    """To the next whole step."""
    return -(-minutes // step) * step
