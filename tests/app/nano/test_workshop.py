from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import psutil
import pytest

from kodkod_app.nano.broken import MAX_NAMED_TESTS, broken_instances
from kodkod_app.nano.packages import Package, PackageSpec, Role
from kodkod_app.nano.runs import RunnerFault
from kodkod_app.nano.spans import applied
from kodkod_app.nano.workshop import Workshop, prepare
from kodkod_tools.junit import Outcome

PATH = "src/thing/numbers.py"
FILE = "tests/test_numbers.py"
CODE = textwrap.dedent('''\
    def clamp(value, least=0, most=10):
        """A number within bounds."""
        if value < least:
            return least
        return min(value, most)


    def total(numbers):
        found = 0
        for number in numbers:
            found += number
        return found


    def unused():
        return 1 + 1
    ''')
TESTS = textwrap.dedent("""\
    import os
    import pytest
    from thing.numbers import clamp, total

    @pytest.mark.parametrize(("value", "kept"), [(-1, 0), (0, 0), (1, 1), (11, 10)])
    def test_clamp(value, kept):
        assert clamp(value) == kept

    def test_total():
        assert total([1, 2]) == 3

    def test_that_always_fails():
        assert False

    def test_that_takes_long():
        try:
            while True:
                pass
        except Exception:
            pass

    def test_that_flakes():
        flag = os.environ["HOME"] + "/seen"
        assert not os.path.exists(flag)
        open(flag, "w").close()
    """)


def package_of(folder: Path, code: str, tests: str) -> Package:
    tree = folder / "tree"
    (tree / "src" / "thing").mkdir(parents=True)
    (tree / "src" / "thing" / "__init__.py").touch()
    (tree / PATH).write_text(code)
    (tree / "tests").mkdir()
    (tree / FILE).write_text(tests)
    (tree / "setup.cfg").write_text("[tool:pytest]\naddopts = --no-such-option\n")
    spec = PackageSpec(
        name="thing", version="1.0", sha256="0" * 64, licence="MIT", role=Role.TRAIN, tests=("tests",), source="src"
    )
    return Package(spec, folder, tree)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    return package_of(tmp_path_factory.mktemp("thing"), CODE, TESTS)


@pytest.fixture(scope="module")
def workshop(package: Package) -> Iterator[Workshop]:
    with prepare(package) as ready:
        yield ready


def test_tests_that_fail_or_flake_are_left_out(workshop: Workshop, package: Package) -> None:
    assert set(workshop.baseline.left_out) == {
        f"{FILE}::test_that_{does}" for does in ("always_fails", "flakes", "takes_long")
    }
    assert len(workshop.baseline.seconds) == 5
    with prepare(package) as again:
        assert again.baseline == workshop.baseline


def test_each_line_knows_its_tests(workshop: Workshop) -> None:
    assert workshop.paths == (PATH,)
    assert workshop.tests_covering(PATH, 11) == (f"{FILE}::test_total",)
    assert workshop.tests_covering(PATH, 4) == (f"{FILE}::test_clamp[-1-0]",)
    assert workshop.tests_covering(PATH, 16) == ()
    assert not workshop.lines_covered(PATH) & {1, 15, 16}


def test_a_run_sees_the_change_and_leaves_no_trace_of_it(workshop: Workshop) -> None:
    sound = workshop.read(PATH)
    broken = workshop.run({PATH: sound.replace("+= number", "-= number")}, [FILE], 20.0)
    assert broken.failed == {f"{FILE}::test_total"}
    assert broken.exit_code == 1
    case = next(case for case in broken.cases if case.outcome is Outcome.FAILED)
    assert case.node_id == f"{FILE}::test_total"
    assert "assert -3 == 3" in case.text
    assert 11 in broken.trace.tests[case.node_id].lines[PATH]
    assert workshop.read(PATH) == sound == (workshop.package.tree / PATH).read_text()
    mended = workshop.run({}, [FILE], 20.0)
    assert (mended.exit_code, mended.failed, len(mended.cases)) == (0, frozenset(), 5)


def test_a_module_that_cannot_be_imported_fails_no_test_by_name(workshop: Workshop) -> None:
    result = workshop.run({PATH: "raise ValueError\n"}, [FILE], 20.0)
    assert result.failed == frozenset()
    assert result.exit_code == 2
    assert [case.outcome for case in result.cases] == [Outcome.ERROR]


def is_alive(pid: int) -> bool:
    """Nobody may have taken notice of its end yet."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], bool]) -> None:
    """A killed process ends when the kernel comes to it, not when the signal is sent."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_does_not_end_is_killed_with_its_children(workshop: Workshop, tmp_path: Path) -> None:
    began = tmp_path / "began"
    child = f"    open({str(began)!r}, 'w').write(str(os.getpid()))\n    time.sleep(600)\n    os._exit(0)\n"
    endless = f"import os, time\nif os.fork() == 0:\n{child}time.sleep(600)\n"
    result = workshop.run({PATH: endless}, [FILE], 1.0)
    assert result.timed_out
    assert result.duration_s < 600
    assert result.cases == ()
    assert workshop.run({}, [FILE], 20.0).exit_code == 0
    assert began.exists()
    until(lambda: not is_alive(int(began.read_text())))


def test_a_run_that_wants_too_much_memory_fails_alone(workshop: Workshop) -> None:
    greedy = CODE.replace("found = 0", "found = 0 * len(bytearray(2**40))")
    result = workshop.run({PATH: greedy}, [FILE], 20.0)
    assert result.failed == {f"{FILE}::test_total"}
    assert any("MemoryError" in case.text for case in result.cases)


def test_instances_are_broken_and_their_repair_mends_them(workshop: Workshop) -> None:
    instances = list(broken_instances(workshop, Random(1), 6))
    assert len({instance.broken for instance in instances}) == 6
    assert len({instance.fault.kind for instance in instances}) >= 4
    assert {instance.package for instance in instances} == {"thing==1.0"}
    for instance in instances:
        assert 1 <= len(instance.failing_tests) <= MAX_NAMED_TESTS
        assert set(instance.failing_tests) <= instance.run_result.failed & workshop.baseline.seconds.keys()
        assert instance.fault.repair.line < 15
        assert applied(instance.broken, instance.fault.repair) == CODE
        mended = workshop.run({instance.path: CODE}, instance.failing_tests, 20.0)
        assert mended.exit_code == 0


def test_the_same_seed_finds_the_same_instances(workshop: Workshop) -> None:
    one, other = ([found.fault for found in broken_instances(workshop, Random(7), 2)] for _ in range(2))
    assert one == other


def test_there_may_be_fewer_than_asked_for(tmp_path: Path) -> None:
    tests = "from thing.numbers import one\n\ndef test_one():\n    assert one() == 1\n"
    with prepare(package_of(tmp_path, "def one():\n    return 1\n", tests)) as workshop:
        instances = list(broken_instances(workshop, Random(3), 50))
    assert {found.broken.split("\n")[1].strip() for found in instances} == {"return 0", "return 2", "return not 1"}


def test_a_package_whose_tests_all_fail_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RunnerFault, match=r"no test of thing==1\.0 passes here; pytest said: .*no_such_module"):
        prepare(package_of(tmp_path, "", "import no_such_module\n"))


def test_another_works_beside_it(workshop: Workshop) -> None:
    with workshop.another() as other:
        assert other.tree != workshop.tree
        assert other.run({}, [FILE], 20.0).exit_code == 0
