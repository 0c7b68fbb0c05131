"""Whether the xsp that is installed in this environment does its work: the bundled capture is
opened, shown and compared with itself, and layers are traced where torch is.

    python installed.py [--native]

Prints a line of JSON: versions, whether the native parts are there, CPU seconds of the commands
that people wait for. With `--native` a wheel without its native parts is an error. It needs
nothing but xsp and what that brings: cibuildwheel and benchmarks/installation.py run it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import xsp

RUNS = 3
"""The least of so many: what else the machine does only adds."""


def main() -> None:
    """Check, print, and leave with exit status 1 where something is missing."""
    found = {
        "python": platform.python_version(),
        "xsp": xsp.__version__,
        "torch": importlib.util.find_spec("torch") is not None,
        "native": native_parts(),
        **opened(),
        **commands(),
    }
    print(json.dumps(found))
    if "--native" in sys.argv and not all(found["native"].values()):
        sys.exit(f"the native parts are missing: {found['native']}")


def native_parts() -> dict[str, bool]:
    """Which of the two compiled parts lie in the package."""
    package = Path(xsp.__file__).parent / "levels"
    return {
        "libxsp_native": bool(list(package.glob("_native/*.so"))),
        "_hotpath": bool(list(package.glob("layer/_hotpath*.so"))),
    }


def opened() -> dict[str, int]:
    """What the bundled capture says; the comparison with itself must find nothing."""
    prof = xsp.example("resnet50")
    assert "ResNet50" in str(prof)
    same = xsp.compare(prof, prof)
    assert same.verdict.ratio == 1.0, same.verdict
    return {"kernels": prof.kernel_count, "layers": int((prof.tree()["level"] == "LAYER").sum())}


def commands() -> dict[str, float]:
    """CPU seconds of commands, in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder) / "example.xsp"
        xsp.example("resnet50").save(capture)
        named = {
            "import": ["-c", "import xsp"],
            "version": ["-m", "xsp", "--version"],
            "help": ["-m", "xsp", "--help"],
            "report": ["-m", "xsp", "report", str(capture)],
            "compare": ["-m", "xsp", "compare", str(capture), str(capture)],
        }
        return {f"{name}_cpu_s": least_cpu_s(given) for name, given in named.items()}


def least_cpu_s(arguments: list[str]) -> float:
    """CPU seconds, user and system, of the interpreter with these arguments."""
    taken = []
    for _ in range(RUNS):
        before = os.times()
        done = subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=False)
        # 3: what `xsp compare` says where noise leaves the times open.
        assert done.returncode in {0, 3}, arguments
        after = os.times()
        user = after.children_user - before.children_user
        taken.append(user + after.children_system - before.children_system)
    return round(min(taken), 3)


if __name__ == "__main__":
    main()
