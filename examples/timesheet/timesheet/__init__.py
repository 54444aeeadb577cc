"""Adds up hours."""

from timesheet.durations import format_duration, parse_duration, round_up
from timesheet.sheet import Entry, Sheet
from timesheet.spans import Span, gaps, merge

__all__ = ["Entry", "Sheet", "Span", "format_duration", "gaps", "merge", "parse_duration", "round_up"]
