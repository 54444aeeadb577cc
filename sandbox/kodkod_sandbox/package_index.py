"""How this machine reaches Python packages, for a build to reach them the same way: pip's settings and proxies."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SETTING = re.compile(r"(?:global|install|:env:)\.([a-z-]+)=(.+)")
_ADDRESSES = {"index-url": "PIP_INDEX_URL", "extra-index-url": "PIP_EXTRA_INDEX_URL"}
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy", "ftp_proxy")
PIP_ARGUMENTS = (*_ADDRESSES.values(), "PIP_TRUSTED_HOST", "PIP_CERT")
"""Build arguments that a recipe which installs packages takes."""


@dataclass(frozen=True, slots=True)
class PackageIndex:
    """What a build is told of the way to packages."""

    arguments: Mapping[str, str] = field(default_factory=dict)
    """Variables pip reads. Addresses of this machine's own folders are left out: a build does not see them."""
    certificates: Path | None = None
    """Authorities trusted here, as one file."""


def package_index() -> PackageIndex:
    """As pip on this machine is set up."""
    settings = _pip_settings()
    arguments = {
        variable: " ".join(address for address in settings.get(name, "").split() if address.startswith("http"))
        for name, variable in _ADDRESSES.items()
    }
    arguments["PIP_TRUSTED_HOST"] = " ".join(settings.get("trusted-host", "").split())
    named = Path(settings.get("cert", ""))
    return PackageIndex({name: value for name, value in arguments.items() if value}, named if named.is_file() else None)


def proxies() -> dict[str, str]:
    """Variables that name proxies. Docker takes them for a build and keeps them out of the image."""
    return {name: value for name, value in os.environ.items() if name.lower() in _PROXIES and value}


def _pip_settings() -> dict[str, str]:
    """Name -> value. pip lists the environment's, which count most, in a section of their own."""
    try:
        told = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    found = sorted(
        filter(None, map(_SETTING.fullmatch, told.splitlines())), key=lambda line: line[0].startswith(":env:")
    )
    return {line[1]: str(ast.literal_eval(line[2])) for line in found}
