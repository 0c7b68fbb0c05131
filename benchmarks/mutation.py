"""How many changes of the code the tests notice: a random sample of cosmic-ray's mutants.

    python benchmarks/mutation.py [--sample 40] [--seed 0] [--folder xsp/capture]
        [--json results/mutation.json] [--again results/mutation.json]
                                  # needs cosmic-ray and coverage, make native

Works on a copy of the tree at a low priority. What each test runs is asked once and kept in
`build/mutation`; a mutant is then met by the tests that run it (`mutation_tests`). A mutant that a
test notices twice, that breaks the import, or that never ends counts as noticed; a test that fails
without a mutant too notices nothing. One never ends (`endless`) whose tests do not end in four
times the time that they may take, and do end without it. Mutants that no rule leaves out
(`mutants.LEFT_OUT`) are drawn at random; those of `mutants_without_effect.json` that were drawn are
told apart.
"""

from __future__ import annotations

import argparse
import compileall
import json
import math
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

from mutants import LEFT_OUT, Mutant, WithoutEffect, mutants
from mutation_tests import PATIENCE, Outcome, Tests, ready, statements
from scipy.stats import binomtest

ROOT = Path(__file__).parents[1]
FOLDERS = ("xsp/analysis/correction", "xsp/capture", "xsp/measuring")
KEPT = ROOT / "build" / "mutation"

ASKED = """
    allocations along attribution call_recorder calls capture capture_refusals capture_rules
    capture_tables captured charges clock compiled_kernels compiled_profile compiled_replays
    concurrency copies correction_bounds correlate costs counters counters_refused deadline
    deciding_together dependencies doubts doubts_about_correction driver engines executor
    extra_runs facts fit_search following gpu_state graph_layers host_clock interruption
    kineto_lines latencies left_as_found levels limits loop_groups loop_thread measure
    memory nvtx on_disk options other_way overlap patience profile_block progress provenance
    range_log rank_processes recaptured recordings replay rooms same_call same_numbers scale
    separate_ladder separate_measuring settings state step_watch steps stored_fit switching
    tight_loops time_budget turns untouched what_is_doubtful what_targets_return writing
"""
"""Test files that are asked what they reach: those about what the folders do."""

OF_OTHERS = """
    analyses_cpu bricks_composing chrome compare compare_cli docs fuzz hostile_names merge
    otel_delivery perfetto ranks run what_if
"""
"""Test files that import from the folders and are about something else, or take minutes."""

NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "build", "dist")


@dataclass
class Figures:
    """What became of the sample of one folder."""

    mutants: int
    left_out: dict[str, int]
    noticed: int = 0
    endless: int = 0
    survivors: list[dict[str, str]] = field(default_factory=list)
    without_effect: list[dict[str, str]] = field(default_factory=list)

    @property
    def judged(self) -> int:
        """How many were drawn that make a difference."""
        return self.noticed + len(self.survivors)

    def described(self) -> dict[str, Any]:
        """With the share that was noticed and its 95 % interval (Wilson)."""
        interval = binomtest(self.noticed, self.judged).proportion_ci(method="wilson")
        return {
            **vars(self),
            "judged": self.judged,
            "share": round(self.noticed / self.judged, 3),
            "interval": [round(interval.low, 3), round(interval.high, 3)],
        }


def outcome_of(mutant: Mutant, tests: Tests) -> tuple[bool, Outcome]:
    """Whether a mutant is noticed, and by what."""
    before, after = mutant.sources()
    statement = statements(before).get(mutant.start[0], range(0))
    outcome = Outcome(True)
    for chosen in tests.meeting(str(mutant.module), statement):
        outcome = met(mutant.module, after, chosen, tests)
        if not outcome.passed:
            break
    return not outcome.passed, outcome


def met(module: Path, after: str, chosen: Sequence[str], tests: Tests) -> Outcome:
    """What the chosen tests say of a module that reads like this, less those that fail anyway, and
    less those that do not fail again, with more time: a busy machine can fail a test once.
    """
    left = list(chosen)
    while left:
        first = under(module, after, left, tests, 1.0)
        if first.passed:
            return first
        again = under(module, after, left, tests, PATIENCE)
        if not again.passed and tests.fail_for_it(again, left):
            return again
        wrong = first.failed if again.passed else again.failed or left[0]
        left = [test for test in left if test != wrong] if wrong and not again.endless else []
    return Outcome(True)


def under(
    module: Path, after: str, chosen: Sequence[str], tests: Tests, patience: float
) -> Outcome:
    """How the chosen tests end while a module reads like this."""
    before = module.read_text()
    module.write_text(after)
    try:
        return tests.run(chosen, patience)
    finally:
        module.write_text(before)


def judge(mutant: Mutant, figures: Figures, tests: Tests, without_effect: WithoutEffect) -> None:
    """Let a mutant meet the tests, and note and say what became of it."""
    change = mutant.change()
    said = {**change, "operator": mutant.operator, "line": str(mutant.start[0])}
    if reason := without_effect.reason(change):
        figures.without_effect.append({**said, "reason": reason})
        return
    noticed, outcome = outcome_of(mutant, tests)
    figures.noticed += noticed
    figures.endless += outcome.endless
    by = outcome.failed or "its import, or its end"
    if not noticed:
        figures.survivors.append(said)
        by = "no test"
    place = f"{mutant.module}:{mutant.start[0]}"
    print(f"{place} {change['before']!r} -> {change['after']!r}: {by}", flush=True)


def drawn(every: Sequence[Mutant], size: int, seed: str) -> list[Mutant]:
    """A random sample of the mutants that are Python."""
    sample: list[Mutant] = []
    for mutant in random.Random(seed).sample(every, len(every)):
        if len(sample) == size:
            break
        try:
            mutant.sources()
        except (SyntaxError, AttributeError):
            # cosmic-ray cannot replace an exception that has a dotted name.
            continue
        sample.append(mutant)
    return sample


def survivors_of(every: Sequence[Mutant], before: Sequence[dict[str, str]]) -> list[Mutant]:
    """The mutants that survived an earlier run, and still exist."""
    wanted = {(each["operator"], each["module"], each["before"], each["after"]) for each in before}
    places = {(operator, module) for operator, module, _, _ in wanted}
    candidates = [each for each in every if (each.operator, str(each.module)) in places]
    return [each for each in candidates if (each.operator, *each.change().values()) in wanted]


def forgotten() -> list[str]:
    """Test files that import from the folders, of which nobody said whether they are asked."""
    modules = "|".join(folder.replace("/", r"\.") for folder in FOLDERS)
    imports = re.compile(rf"^\s*(from|import) ({modules})\b", re.MULTILINE)
    known = {*ASKED.split(), *OF_OTHERS.split()}
    files = {path.stem.removeprefix("test_"): path for path in Path("tests").glob("test_*.py")}
    found = {name for name, path in files.items() if imports.search(path.read_text())}
    return sorted(found - known)


def in_copy(made: str) -> None:
    """Go to a copy of the tree, from where xsp is then imported, here and in what tests start."""
    copy = Path(made) / "xsp"
    shutil.copytree(ROOT, copy, ignore=NOT_COPIED, symlinks=True)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.path.insert(0, str(copy))
    # Compiled files that hold a hash of their source: a mutant can be as old and as long as it.
    mode = PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir("xsp", quiet=1, invalidation_mode=mode)
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sample", type=int, default=40, help="mutants of each folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", action="append", choices=FOLDERS)
    parser.add_argument("--minutes", type=float, default=math.inf, help="draw no more after these")
    parser.add_argument("--json", type=Path, help="where the figures and survivors go")
    parser.add_argument("--again", type=Path, help="only the survivors of these figures")
    options = parser.parse_args()
    target = options.json.absolute() if options.json else None
    again = json.loads(options.again.read_text())["folders"] if options.again else None
    os.nice(10)
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="xsp-mutants-") as made:
        in_copy(made)
        if names := forgotten():
            print(f"neither in ASKED nor in OF_OTHERS: {', '.join(names)}", file=sys.stderr)
        files = [f"tests/test_{name}.py" for name in ASKED.split()]
        ready(files)
        tests = Tests(files, FOLDERS, KEPT)
        samples, figures = {}, {}
        for folder in options.folder or FOLDERS:
            every, left_out = mutants(Path(folder))
            for module in tests.not_reached({str(each.module) for each in every}):
                print(f"no test in ASKED runs a function of {module}", file=sys.stderr, flush=True)
            figures[folder] = Figures(len(every), dict(left_out))
            samples[folder] = (
                drawn(every, options.sample, f"{options.seed} {folder}")
                if again is None
                else survivors_of(every, again[folder]["survivors"])
            )
        end = time.monotonic() + 60 * options.minutes
        # By turns, so that folders have samples of one size when the time is over.
        for turn in zip_longest(*samples.values()):
            for folder, mutant in zip(samples, turn, strict=True):
                if mutant is not None and time.monotonic() < end:
                    judge(mutant, figures[folder], tests, WithoutEffect.read())
            told = {folder: each.described() for folder, each in figures.items() if each.judged}
            if target:
                result = {"seed": options.seed, "rules": LEFT_OUT, "folders": told}
                target.write_text(json.dumps(result, indent=1) + "\n")
        for folder, each in told.items():
            print(f"{folder}: {each['noticed']} of {each['judged']} noticed, {each['interval']}")


if __name__ == "__main__":
    main()
