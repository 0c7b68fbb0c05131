"""How many instructions the layer tracer's hot paths execute for one event, counted by callgrind.

Times on a shared machine hide a hot path that has grown by a quarter; instruction counts do not.
The extension runs without torch, on stand-ins written in C: a list for the stack of modes, a
built-in function for the module. So the counts are those of the extension and of the interpreter's
calls alone, and the whole takes seconds.

    python benchmarks/instructions.py [--json out.json]

The same script, started with --events under valgrind, makes the events. `os.sched_yield` marks the
phases: callgrind writes its counts down before each.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

EVENTS = 2000
KINDS = (
    "module call",
    "functional call",
    "backward node",
    "node watched",
    "functional call followed",
)

RESULT = Path(__file__).parent / "results" / "instructions.json"
"""By Python version what was counted when it was last accepted."""

TOLERANCE = 0.15
"""Compilers, and builds of one Python version, differ by a few per cent."""


def load(path: str) -> Any:
    """The extension from its file, without the package around it."""
    spec = importlib.util.spec_from_file_location("_hotpath", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def events(module: Any) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """By kind: what the program does without the tracer, and what it does with it."""
    mode = object()
    stack = [mode]
    tensor = SimpleNamespace(grad_fn=SimpleNamespace(register_prehook=[].append))
    recorder: Any = module.Recorder(
        mode_depth=stack.__len__,
        push=stack.append,
        pop=stack.pop,
        grad_enabled=bool,
        tensor=SimpleNamespace,
        parameter=SimpleNamespace,
        site_of=lambda _function: recorder.site(2, ()),
        unknown=bool,
        found=bool,
        made=bool,
    )
    recorder.attach(mode, 1)
    layer = recorder.layer(abs, recorder.site(1, ()))
    handler = recorder.handler(mode)
    hook = recorder.hook(6)
    plan = ((-1, 0, (), 8),)
    site = recorder.site(3, [plan] * (2 * EVENTS))
    args = (1,)

    def watched() -> None:
        # As in a handler: torch has taken the mode off meanwhile.
        stack.clear()
        run(recorder.adopt, site, tensor)
        stack.append(mode)

    def no_call() -> None:
        for _ in repeat(None, EVENTS):
            pass

    binding = module.binding(sorted)
    followed = recorder.site(4, ())
    recorder.expect([(binding, followed, followed, -1)] * (2 * EVENTS), [], 9)

    def followed_calls() -> None:
        if not module.bindings_are_open():
            module.open_bindings(())
            recorder.watch_calls(False)
        run(sorted, args)

    return {
        "module call": (lambda: run(abs, 1), lambda: run(layer, 1)),
        "functional call": (lambda: run(abs, 1), lambda: run(handler, abs, (), args)),
        "backward node": (no_call, lambda: run(hook, ())),
        "node watched": (no_call, watched),
        # Last: what is open stays open.
        "functional call followed": (lambda: run(sorted, args), followed_calls),
    }


def run(function: Callable[..., Any], *args: Any) -> None:
    """Call so many times, with as little around it as Python allows."""
    for _ in repeat(None, EVENTS):
        function(*args)


def make_events(path: str) -> None:
    """All phases, each once before it counts: what is allocated first is not counted."""
    for pair in events(load(path)).values():
        for phase in pair:
            phase()
            os.sched_yield()
            phase()
            os.sched_yield()


def counted(extension: str) -> dict[str, float]:
    """Instructions by event of each kind, those of the program without the tracer taken out."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise SystemExit("valgrind is not installed: apt-get install valgrind")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(valgrind, "--tool=callgrind", "--dump-before=sched_yield"),
            f"--callgrind-out-file={folder}/out",
            *(sys.executable, "-I", "-S", __file__, "--events", extension),
        ]
        environment = {**os.environ, "PYTHONHASHSEED": "0"}
        subprocess.run(command, check=True, capture_output=True, env=environment)
        totals = [_total(Path(folder) / f"out.{part + 1}") for part in range(4 * len(KINDS))]
    # Parts alternate: what came before a phase, and the phase.
    phases = totals[1::2]
    pairs = zip(KINDS, phases[::2], phases[1::2], strict=True)
    return {kind: round((traced - bare) / EVENTS, 1) for kind, bare, traced in pairs}


def _total(part: Path) -> int:
    found = re.search(r"^(?:totals|summary): (\d+)", part.read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"callgrind wrote no total into {part}")
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the counts here, beside other Pythons'")
    parser.add_argument("--events", metavar="EXTENSION", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.events:
        make_events(arguments.events)
        return
    from xsp.levels.layer import hotpath

    module = hotpath.extension()
    if module is None:
        raise SystemExit("the extension was not built for this Python: make native")
    found = counted(module.__file__)
    print(json.dumps(found))
    if arguments.json:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        before = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
        arguments.json.write_text(json.dumps({**before, version: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
