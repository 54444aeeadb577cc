"""Every kernel compiles for a CUDA device, which the interpreter does not say; no device is needed for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SCRIPT = Path(__file__).with_name("compile_kernels.py")
KERNELS = Path(__file__).parents[4] / "engine/kodkod_engine/kernels/gpu"
EVERY = ("bf16", "fp8", "int8", "int4")


def _compile(cache: Path, *arguments: str) -> list[str]:
    """Lines that the compiling process prints."""
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    own = {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, env=kept | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def _with_kernels() -> set[str]:
    """Modules that define a kernel which is launched."""
    return {path.stem for path in KERNELS.glob("*.py") if "[grid](" in path.read_text(encoding="utf-8")}


def test_kernels_compile(tmp_path: Path) -> None:
    """None that is defined may be left out, in a rehearsal neither."""
    told, left = _compile(tmp_path, "90", "narrow", "once", "bf16", "int4")
    assert _with_kernels() <= set(told.split())
    assert left == "left to compile: 0"


def test_a_loop_is_counted_as_often_as_it_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what is skipped ahead, nor the branch to itself behind the end."""
    from kodkod_engine.kernels.gpu.absent_device import Program

    code = """
        /*0000*/                   IADD3 R0, R0, 0x1, RZ ;
        /*0010*/               @P0 BRA `(.L_x_1) ;
.L_x_0:
        /*0020*/                   HMMA.16816.F32 R4, R8, R2, R4 ;
        /*0030*/               @P1 BRA `(.L_x_0) ;
.L_x_1:
        /*0040*/                   EXIT ;
.L_x_2:
        /*0050*/                   BRA `(.L_x_2);
"""
    monkeypatch.setattr(Program, "_tool", lambda *_given: code)
    program = Program("module", "kernel", 3, 2, 0, b"")
    assert [program.issued(), program.issued(5)] == [6 * 32 * 2 * 3, (6 + 4 * 2) * 32 * 2 * 3]


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "89", "90", "100", "120"])
def test_kernels_compile_for_other_devices(tmp_path: Path, capability: str) -> None:
    told, left = _compile(
        tmp_path, capability, "narrow", "always", *(one for one in EVERY if capability != "80" or one != "fp8")
    )
    assert _with_kernels() <= set(told.split())
    assert left == "left to compile: 0"


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "precisions"), [("86", ("bf16", "int8", "int4")), ("120", ("fp8", "int4"))])
def test_consumer_cards_have_room_for_a_way_of_each_choice(
    tmp_path: Path, capability: str, precisions: tuple[str, ...]
) -> None:
    """At the published sizes, in 99 KB of shared memory; a choice without such a way ends the process."""
    told, *_ = _compile(tmp_path, capability, "published", "able", *precisions)
    assert {"latent_decode", "few_packed", "prefill_attention"} <= set(told.split())


@pytest.mark.slow
def test_kernels_compile_at_the_published_sizes(tmp_path: Path) -> None:
    told, _, spilled = _compile(tmp_path, "90", "published", "always", *EVERY)
    assert _with_kernels() <= set(told.split())
    # Attention over long tiles fills the registers to the last; what multiplies weights has room.
    for one in spilled.split()[1:]:
        kernel, _, num_bytes = one.partition(":")
        assert kernel.startswith(("latent_decode.", "prefill_attention.")), one
        assert int(num_bytes) <= 64, one
