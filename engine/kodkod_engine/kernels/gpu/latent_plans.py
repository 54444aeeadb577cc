"""How the attention of a decode step is cut: tiles of a program, and splits that share a context."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tile:
    """What a program of the first kernel holds, and how it is run."""

    rows: int
    places: int
    num_warps: int
    num_stages: int
    is_whole: bool = False
    """Whether a split is one tile: nothing is carried from tile to tile, and its latents are asked for at once."""


TILES = (
    Tile(32, 32, 8, 3),
    Tile(32, 64, 8, 2),
    Tile(64, 64, 8, 2),
    Tile(16, 64, 8, 1),
)
"""The first is taken where nothing was timed. 64 rows reach the warp group's products; 16 leave room for long tiles.
With three stages block numbers are asked for ahead as well."""

WHOLE_TILES = (
    Tile(32, 64, 8, 1, is_whole=True),
    Tile(64, 64, 8, 1, is_whole=True),
    Tile(16, 64, 4, 1, is_whole=True),
    Tile(32, 128, 8, 1, is_whole=True),
    Tile(16, 128, 8, 1, is_whole=True),
)
"""For contexts that so many splits can share."""

PROCESSORS = 132
"""Of an H100 or H200: a program for each is what splits are counted for."""
MAX_SPLITS = 128
"""Of a context, where a split takes several tiles."""
MAX_WHOLE_SPLITS, MAX_WHOLE_PROGRAMS = 256, 1024
"""Of a context, and in all, where it takes one: beyond, joining them costs more than it saves."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How an attention is cut."""

    tile: Tile
    splits: int
    """A power of two."""

    def __str__(self) -> str:
        tile = self.tile
        sizes = f"{tile.rows} x {tile.places}, {tile.num_warps} warps, {tile.num_stages} stages, {self.splits} splits"
        return f"{sizes}, whole" if tile.is_whole else sizes


def splits_of(context: int, sequences: int, rows: int, tile: Tile = TILES[0]) -> int:
    """Programs that share a context so that each processor has one: a power of two.

    Args:
        context: places, an upper bound.
        sequences: of the step.
        rows: heads times new tokens of a sequence.
        tile: of a program.
    """
    room = PROCESSORS // (sequences * -(-rows // tile.rows))
    wanted = int(max(1, min(MAX_SPLITS, context // tile.places, room)))
    return 1 << (wanted.bit_length() - 1)


def plans_for(context: int, sequences: int, rows: int) -> list[Plan]:
    """What is worth timing; the first is taken where nothing is."""
    plans = []
    for tile in TILES:
        splits = splits_of(context, sequences, rows, tile)
        longest = max(1, context // tile.places)
        plans += [
            Plan(tile, many) for many in (splits, splits // 2, splits * 2) if 1 <= many <= min(longest, MAX_SPLITS)
        ]
    return plans + [plan for plan in _whole_plans(context) if _programs(plan, sequences, rows) <= MAX_WHOLE_PROGRAMS]


def _whole_plans(context: int) -> list[Plan]:
    plans = [Plan(tile, context // tile.places) for tile in WHOLE_TILES]
    return [plan for plan in plans if 1 <= plan.splits <= MAX_WHOLE_SPLITS]


def _programs(plan: Plan, sequences: int, rows: int) -> int:
    return int(sequences * plan.splits * -(-rows // plan.tile.rows))
