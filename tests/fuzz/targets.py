"""What is fuzzed: captures, baselines and imported traces, each by one function of choices."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import xsp
from fuzz import databases
from fuzz.captures import Seed, write_mutant
from fuzz.choices import Choices, pick
from fuzz.documents import mutated
from fuzz.exercise import exercise, run
from xsp.comparing.comparable import Comparable
from xsp.regression.baselines import Baseline

CORPUS = Path(__file__).parent / "corpus"
Target = Callable[[Choices, Path], None]


@cache
def seeds() -> list[Seed]:
    """The captures of the corpus."""
    return [Seed.of(path) for path in sorted(CORPUS.glob("*.xsp"))]


@cache
def document(name: str) -> Any:
    """A JSON document of the corpus."""
    return json.loads((CORPUS / name).read_text(encoding="utf-8"))


def capture(choices: Choices, folder: Path) -> None:
    """A capture is refused with CaptureError, or everything works with it."""
    path = folder / "mutant.xsp"
    write_mutant(pick(choices, seeds()), choices, path)
    with contextlib.suppress(xsp.CaptureError):
        exercise(xsp.load(path), choices, folder)


def container(choices: Choices, folder: Path) -> None:
    """The bytes of a capture changed at any place, checksums and all."""
    content = bytearray((CORPUS / "small.xsp").read_bytes())
    for _ in range(1 + choices.below(4)):
        place = choices.below(len(content))
        if choices.below(4):
            content[place] = choices.below(256)
        else:
            del content[place : place + 1 + choices.below(64)]
    path = folder / "mutant.xsp"
    path.write_bytes(content)
    with contextlib.suppress(xsp.CaptureError):
        xsp.load(path)


def baseline(choices: Choices, _: Path) -> None:
    """A baseline is refused with CaptureError, or can be compared and written."""
    text = _text(mutated(document("baseline.json"), choices))
    with contextlib.suppress(xsp.CaptureError):
        found = Baseline.from_json(text)
        found.to_json()
        original = Comparable.from_json(_text(document("baseline.json")))
        with contextlib.suppress(xsp.XspError):
            comparison = xsp.compare(original, found.profile)
            comparison.to_markdown()
            comparison.to_dict()


def kineto(choices: Choices, folder: Path) -> None:
    """A trace is refused with CaptureError, or everything works with the profile that it gives."""
    path = folder / "trace.json"
    content = _text(mutated(document("kineto.json"), choices)).encode(errors="surrogatepass")
    path.write_bytes(content if choices.below(8) else gzip.compress(content))
    with contextlib.suppress(xsp.CaptureError):
        prof = xsp.from_kineto(path)
        run("tree", prof, folder)
        if not choices.below(8):
            exercise(prof, choices, folder)


def nsys(choices: Choices, folder: Path) -> None:
    """An export of Nsight Systems is refused with CaptureError, or everything works with it."""
    path = folder / "trace.sqlite"
    path.write_bytes((CORPUS / "nsys.sqlite").read_bytes())
    databases.mutate(path, choices)
    with contextlib.suppress(xsp.CaptureError):
        prof = xsp.from_nsys(path, runs=pick(choices, (None, "iteration")))
        run("tree", prof, folder)
        if not choices.below(8):
            exercise(prof, choices, folder)


def _text(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # a number of more digits than Python writes
        return "{}"


TARGETS: dict[str, Target] = {
    "capture": capture,
    "container": container,
    "baseline": baseline,
    "kineto": kineto,
    "nsys": nsys,
}
