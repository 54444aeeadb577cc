"""search: the same results with and without ripgrep, and what it says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import kodkod_tools
from kodkod_tools import ripgrep
from kodkod_tools import search as search_tool
from kodkod_tools.base import ErrorCode, ToolContext, ToolResult
from kodkod_tools.config import ToolsConfig
from kodkod_tools.grep import Line, Request, search
from kodkod_tools.text.regex import BadPattern, read
from kodkod_tools.walk import walk

needs_ripgrep = pytest.mark.skipif(
    shutil.which("rg") is None, reason="ripgrep is not installed: nothing to compare with"
)
ENGINES = ["python", pytest.param("ripgrep", marks=needs_ripgrep)]


@pytest.fixture(params=ENGINES)
def config(request: pytest.FixtureRequest) -> ToolsConfig:
    return ToolsConfig(use_ripgrep=request.param == "ripgrep")


@pytest.fixture
def sample(tree: Path) -> Path:
    """A tree with most of what makes engines differ."""
    files = {
        ".gitignore": b"*.log\nbuild/\n!keep.log\n/only_root.txt\ndocs/**/draft.md\n",
        "a.py": b"def alpha():\n    return 'x'\n\n# the end\n",
        "a/inner.py": b"alpha = beta\n",
        "a.b/c.txt": b"alpha\n",
        "keep.log": b"alpha kept\n",
        "drop.log": b"alpha dropped\n",
        "build/out.txt": b"alpha built\n",
        "only_root.txt": b"alpha root\n",
        "sub/only_root.txt": b"alpha sub\n",
        "sub/.gitignore": b"*.tmp\n!important.tmp\n*.log\n",
        "sub/x.tmp": b"alpha tmp\n",
        "sub/important.tmp": b"alpha important\n",
        "sub/keep.log": b"alpha not kept here\n",
        "docs/x/y/draft.md": b"alpha draft\n",
        "docs/x/final.md": b"alpha final\n",
        ".hidden/file.txt": b"alpha hidden\n",
        ".git/config": b"alpha git\n",
        "nested/.git/HEAD": b"alpha\n",
        "nested/x.log": b"alpha nested\n",
        "crlf.txt": b"alpha\r\nbeta alpha\r\nalpha end\r\n",
        "nofinal.txt": b"beta\nalpha",
        "latin.txt": b"caf\xe9 alpha\nalpha\n",
        "bom.txt": b"\xef\xbb\xbfalpha first\nalpha\n",
        "wide.txt": "alpha wide\r\nünïcode\r\n".encode("utf-16"),
        "unicode.txt": "ünïcode alpha ÄÖÜ\nnaïve λ alpha\n".encode(),
        "binary.dat": b"alpha\n\0\1\2",
        "late.dat": b"alpha\n" + b"x" * 200_000 + b"\0alpha\n",
        "long.txt": b"x" * 1_500 + b"alpha" + b"y" * 1_500 + b"\n",
        "empty.txt": b"",
        "space in name.txt": b"alpha\n",
        "dash-name.txt": b"- alpha\n",
        "{brace}.txt": b"a{2} {alpha} [x] a.b a+b (c) $5 \\d tab\there \"q\" 'q' a/b #c\n",
    }
    for path, data in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(data)
    (tree / "link.txt").symlink_to("a.py")
    (tree / "linked").symlink_to("sub")
    return tree


PATTERNS = [
    r"alpha",
    r"^alpha$",
    r"alpha$",
    r"\balpha\b",
    r"al.ha",
    r"[^a]lpha",
    r"(alpha|beta)",
    r"a{2}",
    r"a\{2\}",
    r"{alpha}",
    r"\[x\]",
    r"a\.b",
    r"a\+b",
    r"\(c\)",
    r"\$5",
    r"\\d",
    r"tab\there",
    r'"q"',
    r"\'q\'",
    r"a\/b",
    r"\#c",
    r"caf.",
    r"ü",
    r"Ä",
    r"[äöü]",
    r"\w+\s+alpha",
    r"\S",
    r"(?i)ALPHA",
    r"(?i:ALPHA).k",
    r"(?P<x>al)pha",
    r"a*?lpha",
    r"[]x]",
    r"[^]]alpha",
    r"[\w.]+a\b",
    r"^$",
    r".*",
    r"^\s*$",
    r"alpha(?=.end)",
    r"(a)lph\1",
    r"x{3,}",
    r"x{,2}alpha",
    r"a++lpha",
    r"[a-f\d-]lpha",
    r"^.alpha",
    r"\Dlpha",
    r"[[a]lpha",
    r"e$",
    r"\bend$",
    r"[^x]*alpha",
    r"λ",
    r"ï",
    r"[\]a]lpha",
    r"a&&b",
    r"[a&&b]",
    r"\Aalpha",
    r"alpha.first",
    r"^alpha.first",
    r"é",
    r"[^\W]alpha",
    r"(?:)",
    r"x*",
    r"\x61lpha",
    r"a{,}lpha",
    r"[\-+]b",
]


def by_python(
    tree: Path, pattern: str, *, ignore_case: bool = False, start: str = ".", ignores: bool = True
) -> list[Line]:
    return list(search(request(tree, pattern, ignore_case, start, ignores)))


def by_ripgrep(
    tree: Path, pattern: str, *, ignore_case: bool = False, start: str = ".", ignores: bool = True
) -> list[Line]:
    spelled = read(pattern, literal=False).ripgrep
    if spelled is None:
        return by_python(tree, pattern, ignore_case=ignore_case, start=start, ignores=ignores)
    command = ripgrep.command("rg", request(tree, pattern, ignore_case, start, ignores), spelled)
    done = subprocess.run(command, cwd=tree, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    reader = ripgrep.Reader(10_000)
    return [line for raw in done.stdout.splitlines() for line in reader.read(raw)]


def request(tree: Path, pattern: str, ignore_case: bool, start: str, ignores: bool) -> Request:
    spelled = read(pattern, literal=False)
    return Request(str(tree), start, spelled.python, spelled.python_strict, ignore_case, None, 8_000_000, ignores)


@needs_ripgrep
@pytest.mark.parametrize("pattern", PATTERNS)
def test_both_engines_agree(pattern: str, sample: Path) -> None:
    assert by_python(sample, pattern) == by_ripgrep(sample, pattern)


@needs_ripgrep
@pytest.mark.parametrize("pattern", ["ALPHA", "Ä", "[A-C]lpha", "É"])
def test_both_engines_agree_without_case(pattern: str, sample: Path) -> None:
    assert by_python(sample, pattern, ignore_case=True) == by_ripgrep(sample, pattern, ignore_case=True)


@needs_ripgrep
@pytest.mark.parametrize(
    "start", ["sub", "build/out.txt", "a.py", "nested", "docs/x", "late.dat", "keep.log", "drop.log"]
)
def test_both_engines_agree_on_where(start: str, sample: Path) -> None:
    assert by_python(sample, "alpha", start=start) == by_ripgrep(sample, "alpha", start=start)


@needs_ripgrep
def test_both_engines_agree_on_an_ignored_folder_named_outright(sample: Path) -> None:
    lines = by_python(sample, "alpha", start="build", ignores=False)
    assert lines == by_ripgrep(sample, "alpha", start="build", ignores=False)
    assert [line.path for line in lines] == ["build/out.txt"]


@needs_ripgrep
@pytest.mark.parametrize("pattern", ["import", r"def \w+\(self", "^class .*:$", "error", r"\S+\s*=\s*None"])
def test_both_engines_agree_on_a_real_tree(pattern: str) -> None:
    real = Path(kodkod_tools.__file__).parent
    lines = by_python(real, pattern)
    assert lines == by_ripgrep(real, pattern)
    assert lines


def files_of(result: ToolResult) -> list[str]:
    return [line for line in result.for_model.splitlines() if not re.match(r"\d+[:-]|--|\[", line)]


async def test_what_is_searched(sample: Path, call) -> None:
    result = await call("search", pattern="alpha")
    assert files_of(result) == [
        ".hidden/file.txt", "a/inner.py", "a.b/c.txt", "a.py", "bom.txt", "crlf.txt", "dash-name.txt",
        "docs/x/final.md",
        "keep.log", "latin.txt", "long.txt", "nested/x.log", "nofinal.txt", "space in name.txt", "sub/important.tmp",
        "sub/only_root.txt", "unicode.txt", "wide.txt", "{brace}.txt",
    ]  # fmt: skip
    assert "café alpha" in result.for_model
    assert result.facts == {"matches": 24, "files": 19, "complete": True}


async def test_the_form_of_a_result(sample: Path, call) -> None:
    result = await call("search", pattern="return", glob="*.py")
    assert result.for_model == "a.py\n2:    return 'x'"
    around = await call("search", pattern="return", path="a.py", context=1)
    assert around.for_model == "a.py\n1-def alpha():\n2:    return 'x'\n3-"
    wide = await call("search", pattern="wide", context=1)
    assert wide.for_model == "wide.txt\n1:alpha wide\n2-ünïcode"
    none = await call("search", pattern="zebra")
    assert (none.for_model, none.error) == ("no match for 'zebra' in .", None)
    long = await call("search", pattern="alpha", path="long.txt")
    assert long.for_model.startswith("long.txt\n1:[1,420 characters] …xxx")
    assert len(long.for_model) < 600


async def test_globs_and_literals(sample: Path, call) -> None:
    assert files_of(await call("search", pattern="alpha", glob="*.{py,md}")) == [
        "a/inner.py",
        "a.py",
        "docs/x/final.md",
    ]
    assert files_of(await call("search", pattern="alpha", glob="sub/**")) == ["sub/important.tmp", "sub/only_root.txt"]
    assert files_of(await call("search", pattern="a{2} {alpha} [x]", literal=True)) == ["{brace}.txt"]
    assert files_of(await call("search", pattern="alpha", glob="*.log")) == ["keep.log", "nested/x.log"]


async def test_bad_patterns_paths_and_globs_are_results(sample: Path, call) -> None:
    for arguments, word in (
        ({"pattern": "(unclosed"}, "unterminated"),
        ({"pattern": r"a\nb"}, "line"),
        ({"pattern": "a", "glob": "!x"}, "glob"),
        ({"pattern": "a", "glob": "[z-a]"}, "glob"),
        ({"pattern": ""}, "pattern"),
    ):
        result = await call("search", **arguments)
        assert result.error is ErrorCode.BAD_ARGUMENTS
        assert word in result.for_model
    assert (await call("search", pattern="a", path="nowhere")).error is ErrorCode.NOT_FOUND
    assert (await call("find", name="[z-a]")).error is ErrorCode.BAD_ARGUMENTS


class TestLimits:
    @pytest.fixture(params=ENGINES)
    def config(self, request: pytest.FixtureRequest) -> ToolsConfig:
        return ToolsConfig(use_ripgrep=request.param == "ripgrep", max_matches=5, max_search_file_bytes=100_000)

    async def test_many_matches_are_cut(self, tree: Path, call) -> None:
        for name in ("a.txt", "b.txt"):
            (tree / name).write_text("x\n" * 4)
        result = await call("search", pattern="x")
        assert result.for_model.startswith("a.txt\n1:x\n2:x\n3:x\n4:x\nb.txt\n1:x\n[there are more")
        assert result.facts == {"matches": 5, "files": 2, "complete": False}

    async def test_large_files_are_left_out_and_told_when_named(self, tree: Path, call) -> None:
        (tree / "big.txt").write_text("needle\n" * 20_000)
        assert (await call("search", pattern="needle")).facts["matches"] == 0
        assert (await call("search", pattern="needle", path="big.txt")).error is ErrorCode.TOO_LARGE


class TestTimeLimit:
    @pytest.fixture(params=ENGINES)
    def config(self, request: pytest.FixtureRequest) -> ToolsConfig:
        return ToolsConfig(use_ripgrep=request.param == "ripgrep", search_timeout_s=1.0)

    async def test_a_pattern_that_explodes_is_ended(self, tree: Path, call) -> None:
        (tree / "a.txt").write_text("a" * 60 + "\n")
        started = time.monotonic()
        result = await call("search", pattern="(a+)+(?=b)")
        assert result.error is ErrorCode.TIMEOUT
        assert time.monotonic() - started < 10


async def test_a_worker_is_ended_without_asking_after_it(tree: Path, call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks may learn of its end before asyncio does, which then complains on standard error."""
    monkeypatch.setattr(asyncio.subprocess.Process, "kill", lambda _: pytest.fail("it was asked after"))
    (tree / "a.txt").write_text("x\n" * 5_000)
    assert (await call("search", pattern="x")).facts["complete"] is False


async def test_kept_outputs_can_be_searched_and_viewed(tree: Path, call, context: ToolContext) -> None:
    long = await call("shell", command="seq 1 20000")
    assert isinstance(long.for_log, Path)
    assert str(long.for_log) in long.for_model
    result = await call("search", pattern="^12345$", path=str(long.for_log))
    assert result.for_model.endswith("12345:12345")
    assert "\n12345|12345" in (await call("view", path=str(long.for_log), around=12_345)).for_model
    refused = await call("edit", path=str(long.for_log), old="1", new="2")
    assert refused.error is ErrorCode.OUTSIDE_TREE


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=r"ab.*+?()[]{}^$|\dwsn,1-:P<>=i&~ /#", max_size=12))
@example(r"[\]]")
@example("a{,}")
def test_reading_a_pattern_keeps_what_python_means(pattern: str) -> None:
    try:
        spelled = read(pattern, literal=False)
    except BadPattern:
        return
    line = "ab a.b a{1} dws1-: <P>=i [a] & ~ /#"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sets that a later Python may read otherwise
        plain = re.compile(pattern).search(line)
        ours = re.compile(spelled.python).search(line)
    assert (plain and plain.span()) == (ours and ours.span())


def test_the_walk_takes_ignores_from_above_up_to_the_repository(tree: Path) -> None:
    (tree / ".git").mkdir()
    (tree / ".gitignore").write_text("*.log\n\\\n[z-\n[z-a]\n")
    (tree / "sub").mkdir()
    (tree / "sub" / "a.log").write_text("")
    (tree / "sub" / "a.txt").write_text("")
    assert list(walk(tree / "sub")) == ["a.txt"]
    assert list(walk(tree, "sub")) == ["sub/a.txt"]
    assert list(walk(tree, "sub", ignores=False)) == ["sub/a.log", "sub/a.txt"]


async def test_folders_deeper_than_python_calls(tree: Path, call) -> None:
    with contextlib.chdir(tree):
        for _ in range(1_100):
            Path("d").mkdir()
            os.chdir("d")
        Path("leaf.py").write_text("needle\n")
    try:
        assert (await call("find", name="leaf.py")).facts["files"] == 1
        assert (await call("search", pattern="needle")).facts["matches"] == 1
    finally:
        subprocess.run(["rm", "-rf", str(tree / "d")], check=True)  # what pytest removes folders with cannot


def test_the_walk_passes_over_a_folder_too_deep_for_another_name(tree: Path) -> None:
    folder = tree
    while (room := 4_092 - len(bytes(folder))) > 1:
        folder /= "d" * min(200, room - 1)
        folder.mkdir()
    (tree / "a.txt").write_text("")
    assert list(walk(tree)) == ["a.txt"]


async def test_a_search_that_breaks_off_is_not_one_that_found_nothing(
    tree: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "a.txt").write_text("needle\n")
    monkeypatch.setattr(search_tool, "_WORKER", "raise MemoryError")
    result = await call("search", pattern="needle")
    assert result.error is ErrorCode.FAILED
    assert "no match" not in result.for_model


class TestRefusedByRipgrep:
    @pytest.fixture
    def config(self) -> ToolsConfig:
        return ToolsConfig()

    async def test_it_is_searched_without(
        self, tree: Path, call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tree / "a.txt").write_text("needle\n")
        refusing = tmp_path / "bin" / "rg"  # as it does with a pattern too large for it
        refusing.parent.mkdir()
        refusing.write_text("#!/bin/sh\nexit 2\n")
        refusing.chmod(0o755)
        monkeypatch.setenv("PATH", f"{refusing.parent}:{os.environ['PATH']}")
        assert (await call("search", pattern="needle")).facts["matches"] == 1
