"""How many changes of the code the tests notice: a sample of cosmic-ray's mutants of each folder.

    python benchmarks/mutation.py [--sample 25] [--seed 0] [--folder xsp/capture]
                                  # needs cosmic-ray, make native

Works on a copy of the tree at the lowest priority: takes one mutant at a time, runs the tests of
its folder, and prints the mutants that no test noticed.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.modules import find_modules
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.testing import run_tests
from cosmic_ray.work_item import MutationSpec, TestOutcome

ROOT = Path(__file__).parents[1]
TESTS = {
    "xsp/analysis/correction": (
        "tests/test_correction_bounds.py tests/test_replay.py tests/test_recordings.py "
        "tests/test_costs.py tests/test_bundled_captures.py "
        "-k 'not a_million and not intervals_cover'"
    ),
    "xsp/capture": "tests/test_capture.py tests/test_bundled_captures.py",
    "xsp/measuring": (
        "tests/test_options.py tests/test_measure.py tests/test_driver.py tests/test_turns.py "
        "tests/test_profile_block.py tests/test_left_as_found.py "
        "-k 'not interval_at_the_stop'"
    ),
}
"""The tests that concern a folder, less those that take 10 s and more."""

TIMEOUT_S = 300.0
"""A mutant that takes the tests longer, for example one that never ends, was noticed."""

NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "build", "dist")

Place = tuple[int, int]


def mutants(folder: Path) -> list[MutationSpec]:
    """Every mutant of a folder but those of annotations, which are not evaluated."""
    found = []
    for module in sorted(find_modules([folder])):
        annotations = annotated(module)
        nodes = list(ast_nodes(get_ast(module.read_text())))
        for operator in operator_names():
            found += [
                MutationSpec(module, operator, number, start, end)
                for number, (start, end) in enumerate(positions(nodes, operator))
                if not any(first <= start < last for first, last in annotations)
            ]
    return found


def positions(nodes: Sequence[Any], operator: str) -> list[tuple[Place, Place]]:
    """Where an operator can change the nodes of a module; operators with options are left out."""
    changing = get_operator(operator)
    if changing.arguments():
        return []
    return [place for node in nodes for place in changing().mutation_positions(node)]


def annotated(module: Path) -> list[tuple[Place, Place]]:
    """Line and column of the beginnings and ends of all annotations of a module."""
    return [
        ((found.lineno, found.col_offset), (found.end_lineno or 0, found.end_col_offset or 0))
        for node in ast.walk(ast.parse(module.read_text()))
        for found in annotations_of(node)
    ]


def annotations_of(node: ast.AST) -> Iterator[ast.expr]:
    for name in ("annotation", "returns"):
        if (found := getattr(node, name, None)) is not None:
            yield found


def noticed_of(folder: str, sample: Sequence[MutationSpec]) -> int:
    """How many mutants the tests of the folder notice; prints the others."""
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {TESTS[folder]}"
    outcome, output = run_tests(command, TIMEOUT_S)
    if outcome is not TestOutcome.SURVIVED:
        sys.exit(f"the tests of {folder} fail without any mutant, or take too long:\n{output}")
    noticed = 0
    for number, mutant in enumerate(sample, 1):
        found = mutate_and_test([mutant], command, TIMEOUT_S)
        if found.test_outcome is TestOutcome.SURVIVED:
            print(found.diff, flush=True)
        else:
            noticed += 1
        print(f"{folder}: {noticed} of {number} noticed", flush=True)
    return noticed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=25, help="mutants of each folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", action="append", choices=list(TESTS))
    options = parser.parse_args()
    os.nice(19)
    with tempfile.TemporaryDirectory(prefix="xsp-mutants-") as made:
        copy = Path(made) / "xsp"
        shutil.copytree(ROOT, copy, ignore=NOT_COPIED, symlinks=True)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)  # the mutated tree, not an installed build
        lines = []
        for folder in options.folder or TESTS:
            every = mutants(Path(folder))
            sample = random.Random(options.seed).sample(every, min(options.sample, len(every)))
            noticed = noticed_of(folder, sample)
            lines.append(f"{folder}: {noticed} of {len(sample)} noticed, of {len(every)} mutants")
        print("\n".join(lines))


if __name__ == "__main__":
    main()
