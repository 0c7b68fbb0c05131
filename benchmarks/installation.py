"""What installing xsp brings, in environments of its own: for each Python a wheel is built and
installed without torch; the source distribution is installed with no compiler to be found.

    python benchmarks/installation.py --python PATH [--python PATH …] --json FILE

Each installation must open, show and compare the bundled capture (`installed.py`). Reported are the
sizes of the wheel and of the environment, and the CPU seconds of commands.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CHECK = ROOT / "benchmarks" / "installed.py"


def main() -> None:
    """Build, install, check, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", action="append", required=True, help="an interpreter's path")
    parser.add_argument("--json", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, python in enumerate(given.python):
            place = Path(folder) / str(number)
            rows.append(from_wheel(python, place))
            print(rows[-1], flush=True)
        rows.append(from_source(given.python[0], Path(folder) / "sdist"))
        print(rows[-1], flush=True)
    text = json.dumps({"installations": rows}, indent=1) + "\n"
    given.json.write_text(text)


def from_wheel(python: str, place: Path) -> dict[str, Any]:
    """Build a wheel for this Python and install it alone."""
    made = environment(python, place / "build")
    run(made, "-m", "pip", "install", "--quiet", "build")
    run(made, "-m", "build", "--wheel", "--outdir", str(place), str(ROOT))
    (wheel,) = place.glob("*.whl")
    return {"wheel": wheel.name, "wheel_bytes": wheel.stat().st_size} | installed(
        python, place / "clean", wheel, "--native"
    )


def from_source(python: str, place: Path) -> dict[str, Any]:
    """Install the source distribution where no compiler is found: layers are traced in Python."""
    made = environment(python, place / "build")
    run(made, "-m", "pip", "install", "--quiet", "build")
    run(made, "-m", "build", "--sdist", "--outdir", str(place), str(ROOT))
    (source,) = place.glob("*.tar.gz")
    without = {"PATH": str(place / "nothing"), "CC": "/nonexistent/cc"}
    found = installed(python, place / "clean", source, environ=without)
    assert not any(found["native"].values()), found
    return {"sdist": source.name, "sdist_bytes": source.stat().st_size} | found


def installed(python: str, place: Path, what: Path, *checks: str, **options: Any) -> dict[str, Any]:
    """Install one file with what it brings, and check."""
    made = environment(python, place)
    begin = time.perf_counter()
    run(made, "-m", "pip", "install", "--quiet", str(what), **options)
    seconds = time.perf_counter() - begin
    said = run(made, str(CHECK), *checks)
    size = sum(each.stat().st_size for each in place.rglob("*") if each.is_file())
    return {"install_s": round(seconds, 1), "environment_bytes": size, **json.loads(said)}


def environment(python: str, place: Path) -> Path:
    """A new virtual environment; returns its interpreter."""
    subprocess.run([python, "-m", "venv", str(place)], check=True)
    return place / "bin" / "python"


def run(python: Path, *arguments: str, environ: dict[str, str] | None = None) -> str:
    """What the interpreter prints, outside of the source tree."""
    done = subprocess.run(
        [str(python), *arguments],
        check=True,
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
        env={**os.environ, "PYTHONPATH": "", **(environ or {})},
    )
    return done.stdout


if __name__ == "__main__":
    main()
