"""A command's result: how it ended, what it wrote, what it saw around it."""

from __future__ import annotations

import asyncio
import time

from kodkod_sandbox.base import Channel, ExecChunk, ExecResult
from kodkod_sandbox.errors import PathOutsideTree
from kodkod_sandbox.probes.bench import Bench, ProbeFailed, ProbeList, expect

PROBES = ProbeList()
_OF_THE_BOX = {"PATH", "HOME", "TMPDIR", "LANG"}
_OF_THE_SHELL = {"PWD", "SHLVL", "_", "OLDPWD", "HOSTNAME", "_KODKOD_COMMAND"}


@PROBES.add
async def exit_codes(bench: Bench) -> None:
    """The command's own exit code comes back."""
    for code in (0, 1, 3, 70, 126, 255):
        result = await bench.sh(f"exit {code}")
        expect(result.exit_code == code, result)


@PROBES.add
async def signal_exits(bench: Bench) -> None:
    """A command ended by signal n has exit code 128 + n, and is neither timed out nor out of memory."""
    for number in (9, 11, 15):
        result = await bench.sh(f"kill -{number} $$")
        expect(result.exit_code == 128 + number, result)
        expect(not result.timed_out and not result.out_of_memory, result)


@PROBES.add
async def not_found(bench: Bench) -> None:
    """A program that does not exist is a result with 127; one that may not be executed, 126."""
    (bench.tree / "plain").write_text("text", encoding="utf-8")
    for command, code in ((["no-such-program"], 127), ("no-such-program", 127), (["./plain"], 126)):
        result = await bench.box.exec(command)
        expect(result.exit_code == code, result)
        expect(bool(result.stderr), "said nothing about it")


@PROBES.add
async def vectors_and_text(bench: Bench) -> None:
    """A vector's arguments arrive untouched; text goes through the shell."""
    words = ["a b", "$HOME", "'", '"', "*", "", "-n", "ö\n"]
    result = await bench.box.exec(["printf", "%s|", *words])
    expect(result.stdout.decode() == "".join(f"{word}|" for word in words), result)
    await bench.expect_output("x=1; echo $((x + 1)) | cat", "2\n")


@PROBES.add
async def standard_input(bench: Bench) -> None:
    """Input is fed and closed; None is an empty one; a command need not read it."""
    data = bytes(range(256)) * 4096
    result = await bench.box.exec(["cat"], stdin=data[:50_000])
    expect(result.stdout == data[:50_000], "the input did not come back as it was")
    result = await bench.sh("wc -c", stdin=data)
    expect(int(result.stdout) == len(data), result)
    expect((await bench.sh("wc -c")).stdout.split() == [b"0"], "an absent input was not empty")
    expect((await bench.sh("exit 5", stdin=data)).exit_code == 5, "unread input changed the result")


@PROBES.add
async def streaming(bench: Bench) -> None:
    """Output comes as it is written, in order, each piece with its channel; the result is last, and only it."""
    text = "printf one; sleep 0.4; printf two >&2; sleep 0.4; printf three"
    begin_s, times, items = time.monotonic(), [], []
    async for item in bench.box.exec_stream(text):
        items.append(item)
        times.append(time.monotonic() - begin_s)
    chunks = [item for item in items if isinstance(item, ExecChunk)]
    wanted = [(Channel.STDOUT, b"one"), (Channel.STDERR, b"two"), (Channel.STDOUT, b"three")]
    expect([(chunk.channel, chunk.data) for chunk in chunks] == wanted, items)
    result = items[-1]
    if not isinstance(result, ExecResult):
        raise ProbeFailed(f"the last item is not a result: {items}")
    expect((result.stdout, result.stderr) == (b"onethree", b"two"), result)
    expect(times[-1] - times[0] > 0.6, f"pieces were held back: {times}")


@PROBES.add
async def binary_and_utf8(bench: Bench) -> None:
    """Bytes come back as they were written; arguments, variables and paths may be any text."""
    result = await bench.python("import sys; sys.stdout.buffer.write(bytes(range(256)))")
    expect(result.stdout == bytes(range(256)), result)
    folder = bench.tree / "mäp pe ☃"
    folder.mkdir(exist_ok=True)
    result = await bench.box.exec(
        ["sh", "-c", 'pwd; printf %s "$K"; printf %s "$1"', "x", "é"], cwd=folder, env={"K": "ü"}
    )
    expect(result.stdout.decode() == f"{folder}\nüé", result)


@PROBES.add
async def environment(bench: Bench) -> None:
    """Commands see the box's variables and those given, and nothing of the user's."""
    result = await bench.box.exec(["env", "-0"], env={"GIVEN": "1=2\n3"})
    seen = dict(entry.split("=", 1) for entry in result.stdout.decode().split("\0") if entry)
    expect(seen.get("GIVEN") == "1=2\n3", seen)
    expect(set(seen) >= _OF_THE_BOX, seen)
    expect(set(seen) <= _OF_THE_BOX | _OF_THE_SHELL | {"GIVEN"}, seen)


@PROBES.add
async def working_folder(bench: Bench) -> None:
    """A command starts in the tree, at the same path as outside, or where it is told below it."""
    await bench.expect_output("pwd", f"{bench.tree}\n")
    (bench.tree / "below").mkdir(exist_ok=True)
    (bench.tree / "way-out").symlink_to(bench.outside)
    result = await bench.sh("pwd", cwd=bench.tree / "below")
    expect(result.stdout.decode() == f"{bench.tree}/below\n", result)
    for path in (bench.outside, bench.tree / ".." / "outside", bench.tree / "way-out"):
        try:
            await bench.sh("pwd", cwd=path)
        except PathOutsideTree:
            continue
        raise ProbeFailed(f"started in {path}")
    (bench.tree / "way-out").unlink()


@PROBES.add
async def scratch_space(bench: Bench) -> None:
    """Home and TMPDIR can be written, and keep what one command wrote for the next."""
    await bench.expect_output('echo kept >"$HOME/note" && echo too >"$TMPDIR/note" && echo ok', "ok\n")
    await bench.expect_output('cat "$HOME/note" "$TMPDIR/note"', "kept\ntoo\n")


@PROBES.add
async def side_by_side(bench: Bench) -> None:
    """Commands run together, share the tree, and one that runs out of time takes no other with it."""
    commands = [bench.sh(f"sleep 0.3; echo {n} >f{n}; sleep 1; cat f{n}") for n in range(4)]
    *results, late = await asyncio.gather(*commands, bench.sh("sleep 30", timeout_s=0.8))
    expect([result.stdout for result in results] == [b"0\n", b"1\n", b"2\n", b"3\n"], results)
    expect(late.timed_out, late)


@PROBES.add
async def files_are_the_users(bench: Bench) -> None:
    """What a command makes in the tree belongs to who owns the tree; what is there can be changed and removed."""
    (bench.tree / "theirs").write_text("old", encoding="utf-8")
    await bench.expect_output(
        "mkdir -p d && echo new >d/file && ln -sf file d/link && echo new >theirs && cat theirs", "new\n"
    )
    for path in ("d", "d/file", "d/link", "theirs"):
        bench.expect_owned(bench.tree / path)
    await bench.expect_output("mv theirs d/moved && rm -r d && ls d 2>/dev/null | wc -l", "0\n")
