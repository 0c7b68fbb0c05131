"""Fake NVIDIA libraries in C, compiled for tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

FLAGS = ("-O2", "-shared", "-fPIC", "-std=gnu11", "-Wall", "-Werror")


def compiled_cupti(source: Path, folder: Path) -> Path:
    """A fake libcupti from one C file."""
    target = folder / "libcupti.so.13"
    subprocess.run(["gcc", *FLAGS, str(source), "-o", str(target), "-lpthread"], check=True)
    return target
