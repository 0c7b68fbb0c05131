"""The JSON of a run of benchmarks/bricks.py: what it has, and what a model adds to it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bricks_pools import task

PAPER_ROUNDS = 100
DIGITS = 16
"""Of the digests by which bricks of several models are told apart."""


def read(path: Path) -> dict[str, Any]:
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        return kept
    return {"measurements": {}}


def write(path: Path, kept: Mapping[str, Any]) -> None:
    """Written beside it first: a run that is killed leaves the old file or the new one."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(kept, indent=1) + "\n")
    beside.replace(path)


def merge(files: Sequence[Path], output: Path) -> None:
    """Put measurements that were made apart, each with a number of its own, into one file, and what
    their bricks take into the one beside it. Of a number that several have, the last one counts.
    """
    for place in ("", ".bricks"):
        every = [read(each.with_suffix(f"{place}.json")) for each in files]
        measurements = {
            number: each for one in every for number, each in one["measurements"].items()
        }
        kept = {**every[-1], "measurements": dict(sorted(measurements.items()))}
        if not place:
            kept["rounds"] = min(one["rounds"] for one in every)
        write(output.with_suffix(f"{place}.json"), kept)


def untried_first(
    todo: Sequence[tuple[int, list[str]]], options: argparse.Namespace
) -> list[tuple[int, list[str]]]:
    """Groups that were not measured at all come before those that can be known better."""
    done = read(options.output)["measurements"]
    return sorted(todo, key=lambda each: all(one in done.get(str(each[0]), {}) for one in each[1]))


def is_complete(name: str, number: int, options: argparse.Namespace) -> bool:
    done = read(options.output)["measurements"].get(str(number), {})
    return bool(done.get(name, {}).get("complete"))


def fail(kept: dict[str, Any], names: Sequence[str], number: str, why: str) -> None:
    """Models without a latency are rows, too, with the reason."""
    done = kept["measurements"].setdefault(number, {})
    for name in names:
        if done.get(name, {}).get("rows"):
            continue  # a latency that is known less well than it could be is not lost
        done[name] = {"rows": [], "failure": why, "complete": True, "task": task(name)}


def add(
    kept: dict[str, Any],
    found: Any,
    names: list[str],
    number: str,
    seconds: float,
    budget_s: float | None,
) -> None:
    """What was found of some models, and what was measured on."""
    from xsp.machine.environment import environment

    rows = found.to_dict()
    complete = all(record.complete for record in found.records.values())
    done = kept["measurements"].setdefault(number, {})
    for name in names:
        done[name] = {
            "rows": [_short(row) for row in rows["models"] if _counts(row, name)],
            "failure": rows["failures"].get(name, ""),
            "notes": [note for note in rows["notes"] if note.startswith(f"{name}: ")],
            "complete": complete,
            "task": task(name),
            "cpu_share": _cpu_share(found),
            "seconds": round(seconds / len(names), 1),
            "rounds_s": None if budget_s is None else round(budget_s / len(names), 1),
        }
    kept["machine"], kept["environment"] = rows["machine"], environment()
    kept["rounds"] = min([kept.get("rounds", PAPER_ROUNDS), *_rounds(found)])
    kept["notes"] = sorted({*kept.get("notes", []), *rows["notes"]})


def _cpu_share(found: Any) -> float | None:
    """For which share of the rounds' time this program had a CPU; None on an older record."""
    every = [record.facts.get("cpu_share") for record in found.records.values()]
    known = [share for share in every if share is not None]
    return round(min(known), 3) if known else None


def _counts(row: Mapping[str, Any], name: str) -> bool:
    """The critical path is what no program here runs."""
    return bool(row["model"] == name and row["rule"] != "critical path")


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers with as many digits as they are known to, and some more."""
    return {
        key: float(f"{each:.5g}") if isinstance(each, float) else each for key, each in row.items()
    }


def add_bricks(found: Any, number: str, options: argparse.Namespace) -> None:
    """Into a file beside the JSON, which stays small without them."""
    kept = read(beside(options))
    done = kept["measurements"].setdefault(number, {})
    done |= {each.model.name: _bricks(found, each) for each in found.subjects}
    write(beside(options), kept)


def beside(options: argparse.Namespace) -> Path:
    output: Path = options.output
    return output.with_suffix(".bricks.json")


def _bricks(found: Any, subject: Any) -> dict[str, dict[str, list[float | None]]]:
    """By granularity, and whether bricks are modules, and by brick: how often the model has it and
    how long it takes, in ns.
    """
    from xsp.brickwork.tables import OF_MODULES, times_for

    times = times_for(subject, found.records)
    counts: dict[str, dict[str, list[float | None]]] = {}
    ways = {str(granularity): cut for granularity, cut in subject.decompositions.items()}
    ways |= {OF_MODULES.format(each): cut for each, cut in subject.modular.items()}
    for way, cut in ways.items():
        mine = counts.setdefault(way, {})
        for digest in [each.layer.digest for each in cut.bricks]:
            known = round(times[digest].mean_ns) if digest in times else None
            mine.setdefault(digest[:DIGITS], [0, known])
            mine[digest[:DIGITS]][0] += 1  # type: ignore[operator] # a count is never None
    return counts


def _rounds(found: Any) -> list[int]:
    """How often each brick was called inside rounds."""
    records = [each for each in found.records.values() if each.caches == "model"]
    return [len(each.samples_ns) for each in records if each.samples_ns]
