"""How many changes of the code the tests notice: a sample of cosmic-ray's mutants.

    python benchmarks/mutation.py [--mutants 60] [--seed 0]      # needs cosmic-ray, make native

Takes one mutant at a time from `analysis/correction`, `capture` and `measuring`, runs the tests of
its folder at the lowest priority, and prints the mutants that no test noticed. The working tree
must have no changes: mutants are written into it, and taken back.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.modules import find_modules
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.work_item import MutationSpec, TestOutcome

ROOT = Path(__file__).parents[1]
TESTS = {
    "xsp/analysis/correction": (
        "tests/test_costs.py tests/test_correction_bounds.py tests/test_replay.py "
        "tests/test_recordings.py tests/test_bundled_captures.py"
    ),
    "xsp/capture": "tests/test_capture.py",
    "xsp/measuring": (
        "tests/test_measure.py tests/test_driver.py tests/test_profile_block.py "
        "tests/test_left_as_found.py"
    ),
}
TIMEOUT_S = 600.0


def mutants() -> list[tuple[str, MutationSpec]]:
    """Every mutant, with the tests that are to notice it."""
    found = []
    for folder, tests in TESTS.items():
        for module in sorted(find_modules([ROOT / folder])):
            for operator in operator_names():
                found += [
                    (tests, MutationSpec(module, operator, number, start, end))
                    for number, (start, end) in enumerate(positions(module, operator))
                ]
    return found


def positions(module: Path, operator: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where an operator can change a module; operators with options are left out."""
    changing = get_operator(operator)
    if changing.arguments():
        return []
    tree = ast_nodes(get_ast(module.read_text()))
    return [place for node in tree for place in changing().mutation_positions(node)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    changed = subprocess.run(
        ["git", "status", "--porcelain", "xsp"], cwd=ROOT, capture_output=True, check=True
    )
    if changed.stdout:
        sys.exit("xsp/ has changes that are not committed: mutants are written over them")
    os.nice(19)
    os.chdir(ROOT)
    os.environ["PYTHONPATH"] = str(ROOT)  # the mutated tree, not an installed build
    every = mutants()
    sample = random.Random(options.seed).sample(every, min(options.mutants, len(every)))
    killed = 0
    for number, (tests, mutant) in enumerate(sample, 1):
        command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {tests}"
        found = mutate_and_test([mutant], command, TIMEOUT_S)
        noticed = found.test_outcome is not TestOutcome.SURVIVED
        killed += noticed
        if not noticed:
            print(found.diff, flush=True)
        print(f"{killed} of {number} noticed ({len(every)} mutants in all)", flush=True)


if __name__ == "__main__":
    main()
