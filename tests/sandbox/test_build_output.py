"""The cause of a failed build, out of all that it said."""

from __future__ import annotations

from kodkod_sandbox.build_output import BuildOutput


def cause(*said: str, fault: str = "The command\n returned a non-zero code: 1") -> str:
    output = BuildOutput()
    for text in said:
        output.add(text)
    return output.cause(fault)


def test_the_last_error_is_told() -> None:
    said = ("Step 1/2 : RUN pip\n", "ERROR: first\n", "\x1b[91mERROR: No matching distribution\x1b[0m\n", "and more\n")
    assert cause(*said) == "ERROR: No matching distribution"
    assert cause("E: Unable to locate package x\n") == "E: Unable to locate package x"
    assert cause("fatal: not a repository\n") == "fatal: not a repository"


def test_without_one_the_daemons_word_and_what_was_said_last() -> None:
    assert cause("it went wrong\n", " ---> 0123\n", "Removing intermediate container 1\n", "Step 2/2 : RUN x\n") == (
        "The command returned a non-zero code: 1: it went wrong"
    )
    assert cause() == "The command returned a non-zero code: 1"


def test_words_that_only_begin_like_one_are_none() -> None:
    assert cause("everything is well\n", fault="gone") == "gone: everything is well"


def test_what_was_said_long_ago_is_forgotten() -> None:
    assert cause("ERROR: old\n", *["line\n"] * 300, fault="gone") == "gone: line"
    assert cause("ERROR: old\n", "line\n" * 300, fault="gone") == "gone: line"
