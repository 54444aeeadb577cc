"""`kodkod convert` in trouble: killed, out of disk, fed half a download, damaged afterwards; each with its way out."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kodkod_app.cli import main
from kodkod_engine.models.checkpoint import INDEX_NAME
from kodkod_engine.models.random_checkpoint import TINY, write_random_checkpoint

KILL = """
import os, signal, sys
from pathlib import Path
from kodkod_app.cli import main
from kodkod_engine.models import safetensors_writer
left, place = int(sys.argv[1]), sys.argv[2]
write_all, replace = safetensors_writer.SafetensorsWriter._write_all, Path.replace

def count(self, chunk):
    global left
    if place == "in a file" and left < len(chunk):
        write_all(self, chunk[:left])
        os.kill(os.getpid(), signal.SIGKILL)
    left -= len(chunk)
    write_all(self, chunk)

def rename(self, target):
    if place == "before a rename" and left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    done = replace(self, target)
    if place == "after a rename" and left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return done

safetensors_writer.SafetensorsWriter._write_all, Path.replace = count, rename
main(sys.argv[3:])
"""
"""A converter that kills itself like `kill -9` once it has written so many bytes."""

FULL = """
import shutil, sys
from collections import namedtuple
from kodkod_app.cli import main
usage = namedtuple("usage", "total used free")
shutil.disk_usage = lambda path: usage(10**12, 0, 10**12)
main(sys.argv[1:])
"""
"""A converter that found room enough when it looked, before others took it."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    return write_random_checkpoint(folder, TINY, seed=3, dtype=torch.bfloat16, shard_bytes=400_000)


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a conversion that nothing happens to leaves."""
    target = tmp_path_factory.mktemp("undisturbed")
    assert _convert(source, target) == 0
    return _hashes(target)


def _convert(source: Path, target: Path, *options: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(source), str(target), *options])
    return int(ended.value.code or 0)


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What a fault says: its last line, which the bar of progress may stand before."""
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith("kodkod: ")
    assert not any("Traceback" in line for line in told)
    return told[-1]


@pytest.mark.slow
def test_killed_again_and_again_the_same_command_ends_equal(
    source: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    target = tmp_path / "killed"
    kills = [(10, "in a file"), (150_000, "in a file"), (40_000, "before a rename"), (200_000, "after a rename")]
    for written, place in kills:
        command = [sys.executable, "-c", KILL, str(written), place, "convert", str(source), str(target)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert _hashes(target) != undisturbed
    assert _convert(source, target, "--verify") == 0
    assert _hashes(target) == undisturbed


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_line_and_the_same_command_goes_on(
    source: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    disk, copied = tmp_path / "disk", tmp_path / "copied"
    disk.mkdir()
    mount = ["unshare", "-rm", "sh", "-c"]
    if subprocess.run([*mount, f"mount -t tmpfs none {disk}"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a disk of their own")
    convert = f"convert {source} {disk}/int4"
    script = (
        f"mount -t tmpfs -o size=600k none {disk}\n"
        f'{sys.executable} -c "$0" {convert}; echo "first $?"\n'
        f"mount -o remount,size=64m {disk}\n"
        f'{sys.executable} -c "$0" {convert}; echo "second $?"\n'
        f"cp -r {disk}/int4 {copied}\n"
    )
    ended = subprocess.run([*mount, script, FULL], capture_output=True, text=True, check=True)
    assert [line for line in ended.stdout.splitlines() if line.startswith(("first", "second"))] == [
        "first 1",
        "second 0",
    ]
    assert "the disk is full" in ended.stderr
    assert "make room and run the same command again" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert _hashes(copied) == undisturbed


def test_half_a_download_is_told_before_anything_is_written(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target = tmp_path / "half", tmp_path / "target"
    shutil.copytree(source, folder)
    shards = sorted(folder.glob("model-*.safetensors"))
    data = shards[1].read_bytes()
    shards[1].write_bytes(data[: len(data) // 2])
    assert _convert(folder, target) == 4
    assert f"{shards[1]}: " in (told := _one_line(capsys))
    assert told.endswith("truncated, fetch it again")
    shards[1].unlink()
    assert _convert(folder, target) == 4
    assert _one_line(capsys).endswith(f"{shards[1].name} missing; fetch the checkpoint again")
    (folder / INDEX_NAME).unlink()
    assert _convert(folder, target) == 4
    assert _one_line(capsys).endswith("fetch the checkpoint again")
    assert not target.exists()


def test_a_damaged_file_is_named_and_mended_as_it_is_told(
    source: Path, undisturbed: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "damaged"
    assert _convert(source, target) == 0
    victim = target / "layer-01.safetensors"
    data = bytearray(victim.read_bytes())
    data[-100] ^= 1
    victim.write_bytes(data)
    capsys.readouterr()
    assert _convert(source, target, "--verify") == 4
    assert _one_line(capsys) == f"kodkod: {victim}: not what was written; remove it and convert again"
    victim.unlink()
    assert _convert(source, target, "--verify") == 0
    assert _hashes(target) == undisturbed


def test_a_target_that_cannot_be_written_is_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert _convert(source, tmp_path / "file" / "target") == 1
    assert _one_line(capsys).endswith("Not a directory; give another folder")
