"""Prefixes on disk: what is read back is what was there, whatever became of the files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.core.fake_cache import FakeCache
from engine.core.fake_store import FakeStore
from kodkod_engine.core.prefix_store import PrefixStore
from kodkod_engine.kv import segments
from kodkod_engine.kv.cache import KvCache
from kodkod_engine.kv.disk_prefixes import DiskPrefixes
from kodkod_engine.kv.layout import KvLayout
from kodkod_engine.kv.segments import SEGMENT_TOKENS, SegmentFolder, kept_bytes, keys_of, remove_prefix

BLOCK = 4
MODEL = "0123456789abcdef01234567"
LAYOUT = KvLayout(num_cache_layers=2, latent_dim=5, value_bytes=4, num_blocks=40, block_size=BLOCK)
SEGMENT_BYTES = SEGMENT_TOKENS * LAYOUT.bytes_per_token


class Disk:
    """A store over a real cache, and the folder of its files."""

    def __init__(self, root: Path, model: str = MODEL, max_bytes: int = 1 << 30) -> None:
        self.root = root
        self.cache = KvCache(LAYOUT, torch.float32, "cpu")
        self.store = DiskPrefixes(self.cache, SegmentFolder(root, model, max_bytes))

    def fill(self, seed: int = 0) -> None:
        """Every block has numbers of its own."""
        self.cache._latents.normal_(generator=torch.Generator().manual_seed(seed))

    def keep(self, token_ids: range | list[int], block_ids: list[int], name: str = "s") -> None:
        """Store them, written when this returns."""
        self.store.offer(name, token_ids, len(token_ids), block_ids)
        self.store.forget(name)
        self.store.close()

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.root.rglob("*") if path.is_file())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    found = Disk(tmp_path / "kv")
    found.fill()
    yield found
    found.store.close()


# --- every store ---


@pytest.fixture(params=["memory", "disk"])
def made(request: pytest.FixtureRequest, disk: Disk) -> tuple[PrefixStore, Callable[[list[int]], object], int]:
    """A store, what stands in some blocks, and the tokens of a segment."""
    if request.param == "disk":
        return disk.store, lambda blocks: disk.cache.copied_blocks(blocks).tolist(), SEGMENT_TOKENS
    cache = FakeCache(BLOCK)
    cache.slots = {slot: slot + 1 for slot in range(40 * BLOCK)}
    slots = cache.slots
    return (
        FakeStore(cache, SEGMENT_TOKENS // BLOCK),
        lambda blocks: [slots[block * BLOCK + offset] for block in blocks for offset in range(BLOCK)],
        SEGMENT_TOKENS,
    )


def test_what_was_offered_is_read_back_to_other_blocks(made):
    store, standing, segment = made
    tokens, blocks = list(range(2 * segment + 9)), [7, 8, 9, 3, 2, 1, 30, 31, 32]
    before = standing(blocks[:8])
    store.offer("a", tokens, len(tokens), blocks)
    store.close()
    assert store.num_stored(tokens) == 2 * segment
    assert store.read(tokens, 0, [20, 21, 22, 23, 24, 25, 26, 27]) == 8
    assert standing([20, 21, 22, 23, 24, 25, 26, 27]) == before


def test_a_part_is_read_from_the_middle_of_a_segment(made):
    store, standing, segment = made
    tokens, blocks = list(range(2 * segment)), [0, 1, 2, 3, 4, 5, 6, 7]
    before = standing([3, 4, 5])
    store.offer("a", tokens, len(tokens), blocks)
    store.close()
    assert store.read(tokens, 3 * BLOCK, [20, 21, 22]) == 3
    assert standing([20, 21, 22]) == before


def test_other_tokens_before_it_make_another_segment(made):
    store, _, segment = made
    tokens = list(range(2 * segment))
    store.offer("a", tokens, len(tokens), [0, 1, 2, 3, 4, 5, 6, 7])
    store.close()
    assert store.num_stored([99, *tokens[1:]]) == 0
    assert store.num_stored([*tokens[:segment], 99, *tokens[segment + 1 :]]) == segment
    assert store.num_stored(tokens[: segment - 1]) == 0


def test_what_is_not_computed_is_not_taken(made):
    store, _, segment = made
    tokens = list(range(2 * segment))
    store.offer("a", tokens, segment + 3, [0, 1, 2, 3, 4])
    store.forget("a")
    store.close()
    assert store.num_stored(tokens) == segment


# --- files ---


def test_a_growing_sequence_is_written_once(disk):
    tokens = list(range(3 * SEGMENT_TOKENS))
    for end in range(1, len(tokens) + 1, 7):
        disk.store.offer("a", tokens[:end], end, list(range(12)))
    disk.store.close()
    assert [path.stat().st_size for path in disk.files] == [SEGMENT_BYTES + 8] * 2


def test_another_process_finds_what_was_written_and_another_model_does_not(disk, tmp_path):
    tokens = list(range(SEGMENT_TOKENS))
    disk.keep(tokens, [0, 1, 2, 3])
    again, other = Disk(tmp_path / "kv"), Disk(tmp_path / "kv", model="f" * 24)
    assert (again.store.num_stored(tokens), other.store.num_stored(tokens)) == (SEGMENT_TOKENS, 0)
    assert again.store.read(tokens, 0, [5, 6, 7, 8]) == 4
    assert torch.equal(again.cache.copied_blocks([5, 6, 7, 8]), disk.cache.copied_blocks([0, 1, 2, 3]))
    again.store.close()
    other.store.close()


@pytest.mark.parametrize("damage", ["cut", "zeros", "a bit", "empty", "gone"])
def test_a_damaged_segment_is_passed_over_and_removed(disk, damage):
    tokens = list(range(3 * SEGMENT_TOKENS))
    disk.keep(tokens, list(range(12)))
    second = disk.root / MODEL / list(keys_of(tokens))[1].hex()
    data = bytearray(second.read_bytes())
    data[100] ^= 1
    size = len(data)
    changed = {"cut": data[: size // 2], "zeros": bytes(size), "a bit": data, "empty": b""}
    second.unlink() if damage == "gone" else second.write_bytes(changed[damage])
    assert disk.store.read(tokens, 0, list(range(20, 32))) == 4
    assert not second.exists()
    assert disk.store.num_stored(tokens) == SEGMENT_TOKENS


def test_a_damaged_segment_that_cannot_be_removed_is_passed_over(disk, monkeypatch):
    tokens = list(range(2 * SEGMENT_TOKENS))
    disk.keep(tokens, list(range(8)))
    second = disk.root / MODEL / list(keys_of(tokens))[1].hex()
    second.write_bytes(b"cut")

    def refuse(*_arguments, **_fields):
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert disk.store.read(tokens, 0, list(range(20, 28))) == 4


def test_the_oldest_go_when_there_are_too_many_and_the_beginnings_of_those_in_use_stay(tmp_path):
    tokens = {name: list(range(start, start + 2 * SEGMENT_TOKENS)) for name, start in (("a", 0), ("b", 1_000))}
    for number, name in enumerate(tokens):
        disk = Disk(tmp_path / "kv", max_bytes=5 * SEGMENT_BYTES)
        disk.keep(tokens[name], list(range(8)), name)
        for path in disk.files[2 * number :]:
            os.utime(path, (number, number))
    disk = Disk(tmp_path / "kv", max_bytes=5 * SEGMENT_BYTES)
    assert disk.store.read(tokens["a"], 0, list(range(8))) == 8, "and so it is in use"
    disk.keep(list(range(5_000, 5_000 + SEGMENT_TOKENS)), [0, 1, 2, 3])
    again = Disk(tmp_path / "kv")
    assert kept_bytes(tmp_path / "kv") <= 5 * SEGMENT_BYTES
    assert again.store.num_stored(tokens["a"]) == 2 * SEGMENT_TOKENS
    assert again.store.num_stored(tokens["b"]) < 2 * SEGMENT_TOKENS
    again.store.close()


def test_other_files_are_left_alone(tmp_path):
    root = tmp_path / "kv"
    others = [root / "notes.txt", root / "photos" / "cat.jpg", root / MODEL / "readme", root / MODEL / ("a" * 33)]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(SEGMENT_BYTES))
    left_by_a_kill = root / MODEL / f".{'a' * 32}.1.2"
    left_by_a_kill.write_bytes(bytes(SEGMENT_BYTES))
    os.utime(left_by_a_kill, (1, 1))
    disk = Disk(root, max_bytes=3 * SEGMENT_BYTES)
    disk.keep(list(range(3 * SEGMENT_TOKENS)), list(range(12)))
    assert all(path.exists() for path in others)
    assert not left_by_a_kill.exists()
    assert kept_bytes(root) <= 3 * SEGMENT_BYTES


def test_a_full_disk_ends_the_keeping_and_nothing_else(disk, monkeypatch, caplog):
    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", write)
    tokens = list(range(3 * SEGMENT_TOKENS))
    disk.keep(tokens, list(range(12)))
    assert disk.files == [], "nothing is left half written"
    assert caplog.messages == ["prefixes are no longer kept on disk ([Errno 28] No space left on device)"]
    assert disk.store.num_stored(tokens) == 0
    disk.store.offer("b", tokens, len(tokens), list(range(12)))


def test_the_last_of_a_disk_is_left_to_others(disk, monkeypatch, caplog):
    monkeypatch.setattr(segments, "MIN_FREE_BYTES", 1 << 60)
    disk.keep(list(range(SEGMENT_TOKENS)), [0, 1, 2, 3])
    assert disk.files == []
    assert "GiB of the disk are free" in caplog.text


def test_a_disk_that_is_slow_gets_less_and_nobody_waits(disk, monkeypatch):
    full = [True]
    monkeypatch.setattr(disk.store._pending, "full", lambda: full[0])
    tokens = list(range(2 * SEGMENT_TOKENS))
    disk.store.offer("a", tokens, len(tokens), list(range(8)))
    assert disk.store.num_stored(tokens) == 0
    full[0] = False
    disk.keep(tokens, list(range(8)), "a")
    assert disk.store.num_stored(tokens) == 2 * SEGMENT_TOKENS, "what there was no room for is taken later"


def test_nobody_else_may_read_what_is_kept(disk):
    disk.keep(list(range(SEGMENT_TOKENS)), [0, 1, 2, 3])
    assert stat.S_IMODE(disk.root.stat().st_mode) == 0o700


def test_what_is_kept_of_some_tokens_can_be_removed(disk):
    tokens, other = list(range(2 * SEGMENT_TOKENS + 5)), list(range(900, 900 + SEGMENT_TOKENS))
    disk.store.offer("other", other, len(other), [0, 1, 2, 3])
    disk.keep(tokens, list(range(9)))
    assert remove_prefix(disk.root, tokens) == 2 * (SEGMENT_BYTES + 8)
    assert disk.store.num_stored(tokens) == 0
    assert disk.store.num_stored(other) == SEGMENT_TOKENS
    assert remove_prefix(disk.root / "nowhere", tokens) == 0


def test_blocks_that_make_up_no_segment_are_refused(tmp_path):
    layout = KvLayout(2, 5, 4, num_blocks=4, block_size=24)
    with pytest.raises(ValueError, match="no whole number of blocks"):
        DiskPrefixes(KvCache(layout, torch.float32, "cpu"), SegmentFolder(tmp_path, MODEL, 1))


def test_a_file_is_its_numbers_behind_their_check_sum(tmp_path):
    folder = SegmentFolder(tmp_path / "kv", MODEL, 1 << 20)
    (key,) = keys_of(range(SEGMENT_TOKENS))
    folder.write(key, np.arange(100, dtype=np.uint8))
    assert folder.read(key).tolist() == list(range(100))
    assert (tmp_path / "kv" / MODEL / key.hex()).stat().st_size == 108
