"""view, edit, write, find, and the paths they take."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from kodkod_tools import files
from kodkod_tools.base import ErrorCode, FileDiff, ToolContext, ToolError
from kodkod_tools.config import ToolsConfig
from kodkod_tools.files import file_diff, read_text, write_text
from kodkod_tools.paths import open_file, opened_folder, resolve, resolve_writable


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../secret", "link/secret", "~/../../etc"])
async def test_a_path_out_of_the_tree_is_refused_by_every_tool(path: str, tree: Path, call) -> None:
    (tree.parent / "secret").write_text("key")
    (tree / "link").symlink_to(tree.parent)
    (tree / "a").mkdir()
    for name, arguments in (
        ("view", {}), ("edit", {"old": "key", "new": "x"}), ("write", {"content": "x"}),
        ("search", {"pattern": "key"}), ("find", {"name": "secret"}),
    ):  # fmt: skip
        key = {"path": path, **arguments}
        result = await call(name, **key)
        expected = {ErrorCode.OUTSIDE_TREE} if path[0] != "~" else {ErrorCode.OUTSIDE_TREE, ErrorCode.NOT_FOUND}
        assert result.error in expected
        assert "key" not in result.for_model
    assert (tree.parent / "secret").read_text() == "key"


async def test_a_link_inside_the_tree_is_followed_and_stays_a_link(tree: Path, call) -> None:
    (tree / "real.txt").write_text("one\n")
    (tree / "link.txt").symlink_to("real.txt")
    result = await call("edit", path="link.txt", old="one", new="two")
    assert result.changed_paths == ("real.txt",)
    assert (tree / "link.txt").is_symlink()
    assert (tree / "real.txt").read_text() == "two\n"


@pytest.mark.parametrize("path", [".git/config", ".git/hooks/pre-commit", "sub/.GIT/config", "gitlink/config"])
async def test_gits_own_files_are_not_written(path: str, repo: Path, call) -> None:
    (repo / "gitlink").symlink_to(".git")
    result = await call("write", path=path, content="evil")
    assert result.error is ErrorCode.PROTECTED


@pytest.mark.parametrize("path", ["", " ", "a\0b"])
async def test_what_can_be_no_path_is_a_bad_argument(path: str, call) -> None:
    assert (await call("view", path=path)).error is ErrorCode.BAD_ARGUMENTS


async def test_odd_paths_are_results(tree: Path, call) -> None:
    (tree / "loop").symlink_to("loop")
    assert (await call("view", path="loop")).error is ErrorCode.SYSTEM
    assert (await call("view", path="x" * 5_000)).error is ErrorCode.SYSTEM
    (tree / "file").write_text("x")
    assert (await call("write", path="file/below", content="x")).error is ErrorCode.NOT_FOUND


def test_a_folder_swapped_for_a_link_after_the_check_is_not_followed(tree: Path, context: ToolContext) -> None:
    (tree / "sub").mkdir()
    (tree / "sub" / "a.txt").write_text("inside")
    (tree.parent / "outside").mkdir()
    (tree.parent / "outside" / "a.txt").write_text("outside")
    place = resolve_writable(context, "sub/a.txt")
    before = read_text(place, 100)
    (tree / "sub").rename(tree / "gone")
    (tree / "sub").symlink_to(tree.parent / "outside")
    with pytest.raises(OSError):
        open_file(place)
    with pytest.raises(ToolError):
        write_text(place, "overwritten", before)
    with pytest.raises(OSError), opened_folder(place, ("sub",)):
        pass
    assert (tree.parent / "outside" / "a.txt").read_text() == "outside"


def test_a_file_changed_between_reading_and_writing_is_a_conflict(tree: Path, context: ToolContext) -> None:
    (tree / "a.txt").write_text("one")
    place = resolve(context, "a.txt")
    before = read_text(place, 100)
    (tree / "a.txt").write_text("someone else's")
    with pytest.raises(ToolError) as caught:
        write_text(place, "two", before)
    assert caught.value.code is ErrorCode.CONFLICT
    assert (tree / "a.txt").read_text() == "someone else's"
    assert sorted(entry.name for entry in tree.iterdir()) == ["a.txt"]


async def test_an_edit_keeps_the_mode_and_leaves_nothing_behind(tree: Path, call) -> None:
    (tree / "run.sh").write_text("echo 1\n")
    (tree / "run.sh").chmod(0o751)
    result = await call("edit", path="run.sh", old="echo 1", new="echo 2")
    assert result.error is None
    assert stat.S_IMODE((tree / "run.sh").stat().st_mode) == 0o751
    assert [entry.name for entry in tree.iterdir()] == ["run.sh"]


async def test_an_edit_keeps_extended_attributes(tree: Path, call) -> None:
    (tree / "a.txt").write_text("1\n")
    try:
        os.setxattr(tree / "a.txt", "user.origin", b"\0here")
    except OSError:
        pytest.skip("no extended attributes in this file system")
    assert (await call("edit", path="a.txt", old="1", new="2")).error is None
    assert os.getxattr(tree / "a.txt", "user.origin") == b"\0here"


@pytest.mark.parametrize(("name", "arguments"), [("edit", {"old": "1", "new": "2"}), ("write", {"content": "2\n"})])
async def test_what_somebody_protected_is_left_as_it_is(tree: Path, call, name, arguments) -> None:
    (tree / "a.txt").write_text("1\n")
    (tree / "a.txt").chmod(0o444)
    result = await call(name, path="a.txt", **arguments)
    assert (result.error, result.for_model) == (
        ErrorCode.PERMISSION, "error: a.txt is write-protected (mode 444); leave it",
    )  # fmt: skip
    assert (tree / "a.txt").read_text() == "1\n"


async def test_an_edit_shows_the_changed_lines_and_a_diff(tree: Path, call) -> None:
    (tree / "a.py").write_text("".join(f"x{n} = {n}\n" for n in range(1, 21)))
    result = await call("edit", path="a.py", old="x10 = 10", new="x10 = 0\ny = 1")
    assert result.for_model == (
        "edited a.py\n7|x7 = 7\n8|x8 = 8\n9|x9 = 9\n10|x10 = 0\n11|y = 1\n12|x11 = 11\n13|x12 = 12\n14|x13 = 13"
    )
    assert isinstance(result.for_person, FileDiff)
    assert (result.for_person.added, result.for_person.removed) == (2, 1)
    assert "-x10 = 10\n+x10 = 0\n+y = 1\n" in result.for_person.unified


@pytest.mark.parametrize(("places", "new"), [
    ((0,), "first\n"), ((59,), "last\n"), ((59,), "no end"), ((30,), ""), ((30, 31), "a\nb\nc\n"), ((5, 12), "x\n"),
    ((5, 54), "too far apart\n"),
])  # fmt: skip
def test_a_change_in_a_long_file_is_shown_and_not_the_file(
    tree: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[int, ...], new: str
) -> None:
    """Whoever is asked for a change of a file of 10,000 lines was shown that it is large."""
    before = [f"line {number % 7}\n" for number in range(60)]
    after = [new if number in places else line for number, line in enumerate(before)]
    monkeypatch.setattr(files, "_MAX_DIFF_LINES", 40)
    found = file_diff("a.txt", "".join(before), "".join(after))
    if max(places) - min(places) > 20:
        assert found.unified == "(too large to compare: 60 lines before, 60 after)\n"
        return
    assert found.removed < 10
    (tree / "a.txt").write_text("".join(before))
    subprocess.run(["git", "apply", "-"], cwd=tree, input=found.unified, text=True, check=True)
    assert (tree / "a.txt").read_text() == "".join(after)


async def test_a_syntax_fault_is_reported_and_not_prevented(tree: Path, call) -> None:
    (tree / "a.py").write_text("def f():\n    return 1\n")
    result = await call("edit", path="a.py", old="return 1", new="return (1")
    assert result.error is None
    assert "Syntax: line 2:" in result.for_model
    assert result.facts["syntax_fault"] is True
    again = await call("edit", path="a.py", old="(1", new="(2")
    assert "did not parse before this change either" in again.for_model


async def test_a_missed_edit_shows_the_nearest_lines(tree: Path, call) -> None:
    (tree / "a.py").write_text("def f(a, b):\n    return a + b\n")
    result = await call("edit", path="a.py", old="def f(a, b):\n    return a - b\n", new="x")
    assert result.error is ErrorCode.NO_MATCH
    assert "1|def f(a, b):\n2|    return a + b" in result.for_model
    assert "Line 2 is '    return a + b', old has '    return a - b'" in result.for_model
    done = await call("edit", path="a.py", old="return a * c", new="return a + b")
    assert "there already, at line 2" in done.for_model


async def test_a_character_the_encoding_lacks_is_a_result(tree: Path, call) -> None:
    (tree / "a.txt").write_bytes("café\n".encode("latin-1"))
    result = await call("edit", path="a.txt", old="café", new="λ")
    assert result.error is ErrorCode.ENCODING
    assert (tree / "a.txt").read_bytes() == b"caf\xe9\n"


@pytest.mark.parametrize("name", ["edit", "view"])
async def test_binary_files_are_told(name: str, tree: Path, call) -> None:
    (tree / "a.bin").write_bytes(b"\x7fELF\0\0\1")
    arguments = {"old": "ELF", "new": "x"} if name == "edit" else {}
    result = await call(name, path="a.bin", **arguments)
    assert result.error is ErrorCode.BINARY


async def test_pipes_and_folders_are_no_files(tree: Path, call) -> None:
    os.mkfifo(tree / "pipe")
    (tree / "folder").mkdir()
    assert (await call("view", path="pipe")).error is ErrorCode.NOT_A_FILE
    assert (await call("edit", path="folder", old="a", new="b")).error is ErrorCode.NOT_A_FILE
    assert (await call("write", path=".", content="b")).error is ErrorCode.NOT_A_FILE


async def test_a_missing_file_is_told_with_the_nearest_name(tree: Path, call) -> None:
    (tree / "src").mkdir()
    (tree / "src" / "parser.py").write_text("")
    result = await call("view", path="src/parsr.py")
    assert result.error is ErrorCode.NOT_FOUND
    assert "did you mean src/parser.py?" in result.for_model


async def test_view_shows_a_window_and_how_to_go_on(tree: Path, call) -> None:
    (tree / "a.txt").write_text("".join(f"line {n}\n" for n in range(1, 1_001)))
    whole = await call("view", path="a.txt")
    assert whole.for_model.startswith("a.txt, lines 1-250 of 1,000\n1|line 1\n2|line 2\n")
    assert whole.for_model.endswith("250|line 250\n[750 more lines: view with start=251]")
    part = await call("view", path="a.txt", start="998")
    assert part.for_model == "a.txt, lines 998-1000 of 1,000\n998|line 998\n999|line 999\n1000|line 1000"
    around = await call("view", path="a.txt", around=500)
    assert (around.facts["first_line"], around.facts["last_line"]) == (470, 530)
    beyond = await call("view", path="a.txt", start=2_000)
    assert beyond.error is ErrorCode.BAD_ARGUMENTS
    assert "1,000 lines only" in beyond.for_model
    assert (await call("view", path="a.txt", start=5, end=4)).error is ErrorCode.BAD_ARGUMENTS
    last = await call("view", path="a.txt", end=1_000)
    assert (last.facts["first_line"], last.facts["last_line"]) == (751, 1_000)


async def test_view_of_long_lines_stays_short(tree: Path, call) -> None:
    (tree / "a.txt").write_text("é" * 100_000 + "\nend\n" + "y" * 1_000)
    result = await call("view", path="a.txt")
    assert len(result.for_model) < 2_000
    assert "200,000 bytes in this line" in result.for_model
    assert "\n2|end\n" in result.for_model


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
async def test_view_names_an_unusual_encoding(encoding: str, tree: Path, call) -> None:
    (tree / "a.txt").write_bytes("café\r\nthé\r\n".encode(encoding))
    result = await call("view", path="a.txt")
    assert result.for_model.endswith("1|café\n2|thé")
    named = {"utf-8-sig": "(utf-8 with BOM)", "utf-16": "(utf-16-le with BOM)", "latin-1": "(latin-1)"}
    assert named[encoding] in result.for_model


async def test_what_a_view_shows_of_a_long_file_with_a_stray_byte_can_be_quoted(tree: Path, call) -> None:
    (tree / "a.txt").write_bytes("café\n".encode() * 20_000 + b"caf\xe9 last\n")
    shown = (await call("view", path="a.txt", start=20_000)).for_model.split("|")
    edited = await call("edit", path="a.txt", old=f"{shown[1].partition(chr(10))[0]}\n{shown[2]}", new="coffee")
    assert edited.error is None
    assert (tree / "a.txt").read_bytes() == "café\n".encode() * 19_999 + b"coffee\n"


async def test_view_of_a_gigabyte_does_not_load_it(tree: Path, call) -> None:
    with (tree / "huge.log").open("wb") as file:
        file.write(b"first\nsecond\n")
        file.seek(1 << 30)
        file.write(b"\nlast\n")
    result = await call("view", path="huge.log", start=1, end=2)
    assert result.error is ErrorCode.BINARY  # its holes read as zero bytes
    with (tree / "text.log").open("wb") as file:
        for _ in range(64):
            file.write(b"0123456789abcde\n" * 65_536)
    result = await call("view", path="text.log", start=4_194_304)
    assert result.for_model == "text.log, lines 4194304-4194304 of 4,194,304\n4194304|0123456789abcde"


async def test_view_lists_a_folder(tree: Path, call) -> None:
    (tree / "b").mkdir()
    (tree / "a.txt").write_text("12345")
    (tree / "link").symlink_to("a.txt")
    result = await call("view", path=".")
    assert result.for_model == "./ has 3 entries\na.txt  5 bytes\nb/\nlink -> a.txt"


async def test_view_of_an_empty_file(tree: Path, call) -> None:
    (tree / "a.txt").write_text("")
    assert (await call("view", path="a.txt")).for_model == "a.txt is empty"


async def test_write_creates_with_parents_and_overwrites_in_style(tree: Path, call) -> None:
    made = await call("write", path="a/b/c.txt", content="one\ntwo\n")
    assert made.for_model == "created a/b/c.txt (2 lines)"
    assert made.facts["created"] is True
    (tree / "a/b/c.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    again = await call("write", path="a/b/c.txt", content="one\n2\n")
    assert (tree / "a/b/c.txt").read_bytes() == b"\xef\xbb\xbfone\r\n2\r\n"
    assert again.for_model == "overwrote a/b/c.txt (2 lines, +1 -1); kept utf-8 with BOM and CRLF line ends"
    same = await call("write", path="a/b/c.txt", content="one\n2\n")
    assert same.error is ErrorCode.NO_CHANGE


async def test_a_reader_never_sees_half_a_file(tree: Path, context: ToolContext) -> None:
    texts = {"a" * 200_000, "b" * 200_000}
    first, second = sorted(texts)
    (tree / "a.txt").write_text(first)
    seen: set[str] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add((tree / "a.txt").read_text())

    reader = threading.Thread(target=look)
    reader.start()
    place = resolve(context, "a.txt")
    for number in range(20):
        write_text(place, (first, second)[number % 2], read_text(place, 1_000_000))
    done.set()
    reader.join()
    assert seen <= texts


class TestSmall:
    @pytest.fixture
    def config(self) -> ToolsConfig:
        return ToolsConfig(max_edit_bytes=100, max_entries=3)

    async def test_limits_are_results(self, tree: Path, call) -> None:
        (tree / "big.txt").write_text("x" * 101)
        assert (await call("edit", path="big.txt", old="x", new="y")).error is ErrorCode.TOO_LARGE
        assert (await call("write", path="new.txt", content="x" * 101)).error is ErrorCode.TOO_LARGE
        for number in range(5):
            (tree / f"f{number}.py").write_text("")
        listed = await call("view", path=".")
        assert "[3 more entries: use find]" in listed.for_model
        found = await call("find", name="*.py")
        assert found.for_model == "f0.py\nf1.py\nf2.py\n[2 more; narrow the name or give a path]"


async def test_find_by_glob_and_by_part_of_a_name(tree: Path, call) -> None:
    for path in ("src/app/main.py", "src/app/domain.py", "tests/test_main.py", "main.c", "build/main.py", "README.md"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text("")
    (tree / ".gitignore").write_text("build/\n")
    assert (await call("find", name="*.py")).for_model == "src/app/domain.py\nsrc/app/main.py\ntests/test_main.py"
    assert (await call("find", name="src/**/*.py")).for_model == "src/app/domain.py\nsrc/app/main.py"
    assert (await call("find", name="*.{c,md}")).for_model == "README.md\nmain.c"
    assert (await call("find", name="main.py")).for_model.splitlines()[0] == "src/app/main.py"
    assert (await call("find", name="rdme")).for_model == "README.md"
    assert (await call("find", name="main", path="tests")).for_model == "tests/test_main.py"
    assert (await call("find", name="main.py", path="build")).for_model == "build/main.py"
    assert "no file like" in (await call("find", name="zebra")).for_model
    assert (await call("find", name="x", path="nowhere")).error is ErrorCode.NOT_FOUND
