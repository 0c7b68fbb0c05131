"""Fuzzes for a while: `python -m fuzz.run capture --seconds 600`, in tests/.

Guided by coverage with `--guided`, which needs atheris (`pip install atheris`); otherwise mutants
of consecutive seeds, which `--seed N --mutants 1` repeats.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import warnings
from pathlib import Path

LENGTH = 512
"""Bytes of choices at most."""
SEEDS = 16


def unguided(name: str, seconds: float, seed: int, mutants: int | None) -> int:
    """Try mutants of consecutive seeds; prints each failure, and returns their number."""
    from fuzz.choices import Random
    from fuzz.targets import TARGETS

    started, tried, failures = time.monotonic(), 0, 0
    while time.monotonic() - started < seconds and (mutants is None or tried < mutants):
        with tempfile.TemporaryDirectory() as folder:
            try:
                TARGETS[name](Random(seed + tried), Path(folder))
            except Exception as error:
                failures += 1
                sys.stdout.write(f"seed {seed + tried}: {type(error).__name__}: {error}\n")
        tried += 1
    spent = time.monotonic() - started
    sys.stdout.write(f"{name}: {tried} mutants in {spent:.0f} s, {failures} failures\n")
    return failures


def guided(name: str, seconds: float, corpus: Path) -> None:
    """Let atheris search for choices that reach new code; it stops at the first failure."""
    import atheris

    with atheris.instrument_imports(include=["xsp"]):
        from fuzz.choices import Bytes
        from fuzz.targets import TARGETS

    folder = Path(tempfile.mkdtemp())

    def one(data: bytes) -> None:
        TARGETS[name](Bytes(atheris.FuzzedDataProvider(data)), folder)

    corpus.mkdir(parents=True, exist_ok=True)
    if not any(corpus.iterdir()):
        _sow(corpus)
    options = [
        f"-max_total_time={int(seconds)}",
        "-rss_limit_mb=4096",
        "-timeout=900",
        # A few bytes make no mutant worth trying: lengths do not grow from nothing.
        "-len_control=0",
        # What is slow or fails is kept there, not where the program happens to run.
        f"-artifact_prefix={corpus}/",
    ]
    atheris.Setup([sys.argv[0], *options, f"-max_len={LENGTH}", str(corpus)], one)
    atheris.Fuzz()


def _sow(corpus: Path) -> None:
    """Choices to begin with: none, and some by chance."""
    choices = random.Random(0)
    for number in range(SEEDS):
        (corpus / f"seed-{number}").write_bytes(choices.randbytes(LENGTH * number // SEEDS))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=("capture", "container", "baseline", "kineto", "nsys"))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutants", type=int)
    parser.add_argument("--guided", action="store_true")
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "xsp-fuzz")
    said = parser.parse_args()
    warnings.simplefilter("ignore")
    if said.guided:
        guided(said.target, said.seconds, said.corpus / said.target)
    else:
        sys.exit(bool(unguided(said.target, said.seconds, said.seed, said.mutants)))


if __name__ == "__main__":
    main()
