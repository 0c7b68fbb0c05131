"""A profile where memory is short: the program's own error or the profile, and nothing left behind.
What the native part asks for is failed in test_native_hostile.py, the device's memory on a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_libraries import compile_library
from quick import TESTED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs LD_PRELOAD")

PREPARED = """
import collections, ctypes, random, resource, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import faults, torch, xsp

torch.set_num_threads(1)
OPTIONS = dict(levels="M/L", iterations=1, warmup=0, progress=False)
model, _ = faults.model_and_input()
x = torch.randn(3000, 4)
xsp.measure(model, x, **OPTIONS)
"""

FAILING = """
hook = ctypes.CDLL(sys.argv[2])
after = ctypes.c_long.in_dll(hook, "no_memory_after")
asked = ctypes.c_long.in_dll(hook, "no_memory_asked")
for_good = ctypes.c_int.in_dll(hook, "no_memory_for_good")
ctypes.c_void_p.in_dll(hook, "no_memory_end").value = 2**64 - 1
ctypes.c_size_t.in_dll(hook, "no_memory_least").value = 8192

def outcome():
    try:
        xsp.measure(model, x, **OPTIONS)
        return "none"
    except BaseException as error:
        after.value = -1
        return type(error).__name__

after.value = 10**9
outcome()
total, after.value = asked.value, -1
outcomes = collections.Counter()
for number in random.Random(0).sample(range(total), 8):
    for for_good.value in (0, 1):
        before = faults.state_of(model)
        asked.value, after.value = 0, number
        outcomes[outcome()] += 1
        after.value = -1
        assert faults.residue(before, faults.state_of(model)) == [], number
outcome()
print(total, *(f"{name}={count}" for name, count in outcomes.items()))
"""

CAPPED = """
pages = int(open("/proc/self/statm").read().split()[0])
unlimited = resource.RLIM_INFINITY
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), unlimited))
before = faults.state_of(model)
try:
    xsp.measure(model, x, **OPTIONS)
except (MemoryError, RuntimeError):
    pass
resource.setrlimit(resource.RLIMIT_AS, (unlimited, unlimited))
assert faults.residue(before, faults.state_of(model)) == []
print("ended")
"""


def script(text: str, *arguments: object, **environment: str) -> str:
    """What a Python program prints that has made a profile before; it must end well, and in time.

    Its stderr has pages of torch's own about memory that it did not get.
    """
    done = subprocess.run(
        [sys.executable, "-c", PREPARED + text, str(Path(__file__).parent), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=TESTED,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def test_every_large_allocation_of_a_profile_can_fail(tmp_path: Path) -> None:
    """Memory that torch, numpy, Arrow or Python asks for and does not get, once or for good: the
    profile is made or MemoryError or torch's RuntimeError comes out; model and process are as they
    were, and the next profile works.
    """
    hook = compile_library(tmp_path / "no_memory.so", "no_memory.c")
    said = script(FAILING, hook, LD_PRELOAD=str(hook)).split()
    outcomes = dict(part.split("=") for part in said[1:])
    assert int(said[0]) > 50
    assert sum(map(int, outcomes.values())) == 16
    assert set(outcomes) <= {"none", "MemoryError", "RuntimeError"}
    assert {"MemoryError", "RuntimeError"} & set(outcomes)


def test_a_profile_in_a_full_address_space_ends() -> None:
    """With not one page more to be had (setrlimit) a profile ends, with a result or an error: it
    waits for no thread that could not begin.
    """
    assert script(CAPPED) == "ended\n"
