"""What the tools may use and how much they may say."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ToolsConfig(BaseModel):
    """Settings of all tools. Characters bound what the model reads; bytes bound what is held or kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_result_chars: int = Field(default=12_000, ge=1_000)
    """Longest result a tool gives the model; longer ones are cut in the middle and kept whole in the log folder."""
    max_line_chars: int = Field(default=400, ge=40)
    """Longest line shown in a view or a search."""
    max_log_bytes: int = Field(default=64 * 1024**2, ge=0)
    """Most that is kept of one command's output."""

    command_timeout_s: float = Field(default=120.0, gt=0)
    """A shell command's time when it names none."""
    max_command_timeout_s: float = Field(default=1_800.0, gt=0)
    """Most a shell command or a test run may ask for."""
    job_timeout_s: float = Field(default=7_200.0, gt=0)
    """A background job's time."""
    max_jobs: int = Field(default=8, ge=1)
    """Background jobs running at one time."""
    job_first_look_s: float = Field(default=1.0, ge=0)
    """How long starting or asking after a job waits for it to end or to say something."""

    view_lines: int = Field(default=250, ge=1)
    """Lines shown of a file when no range is given, and most shown at once."""
    max_entries: int = Field(default=200, ge=1)
    """Entries listed of a folder, files found, and paths in a git status."""
    max_edit_bytes: int = Field(default=4 * 1024**2, ge=1)
    """Largest file that is edited or written."""
    max_syntax_bytes: int = Field(default=1024**2, ge=0)
    """Largest Python file whose syntax is checked after a change."""

    max_matches: int = Field(default=100, ge=1)
    """Matching lines a search shows."""
    max_search_file_bytes: int = Field(default=8 * 1024**2, ge=1)
    """Larger files are not searched."""
    search_timeout_s: float = Field(default=30.0, gt=0)
    """Time for one search."""
    use_ripgrep: bool = True
    """Search with `rg` when it is installed; the results are the same, only sooner."""

    git_timeout_s: float = Field(default=60.0, gt=0)
    """Time for one git command."""
    commit_name: str = "kodkod"
    """Author of commits where git knows no user."""
    commit_email: str = "kodkod@localhost"
    """The same, for the address."""

    test_command: tuple[str, ...] = ("python", "-m", "pytest")
    """How the project's tests are run."""
    test_targets: tuple[str, ...] = ()
    """What a test call runs that names no targets; empty: all tests that are found."""
    test_timeout_s: float = Field(default=600.0, gt=0)
    """Time for one test run when it names none."""
    max_report_bytes: int = Field(default=32 * 1024**2, ge=1)
    """Largest test report that is read."""
    max_failures: int = Field(default=10, ge=1)
    """Failures told in detail; the rest by name."""
