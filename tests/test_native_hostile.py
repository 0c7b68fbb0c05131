"""The native part in hostile surroundings: libraries that come and go, no memory, other
interposers, more functions than there is room for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_libraries import SOURCES, compile_library
from quick import TESTED

from xsp.levels import _native

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    _native.why_missing() is not None, reason=str(_native.why_missing())
)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fake libraries, and `importer.so` that imports them."""
    folder = tmp_path_factory.mktemp("libraries")
    compile_library(folder / "libcublasLt.so", "fake_cublasLt.c")
    compile_library(folder / "libcublas.so", "fake_cublas.c", libraries=("cublasLt",))
    compile_library(folder / "libcudnn.so", "fake_cudnn.c", '-DFAKE_PLAN_JSON="{}"')
    compile_library(folder / "importer.so", "importer.c", libraries=("cublas", "cublasLt", "cudnn"))
    return folder


def script(text: str, *arguments: object, **environment: str) -> str:
    """What a Python program prints; it fails the test if it does not end well."""
    done = subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=TESTED,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    return done.stdout


def test_libraries_that_come_and_go_while_slots_are_written(tmp_path: Path) -> None:
    """Threads load, call and unload importers of every kind while tracing starts and stops a
    hundred times a second: no crash, every result right, every slot restored. Before that, others
    run operators while these are recorded: every record is whole.
    """
    done = subprocess.run(
        ["bash", str(SOURCES / "stress.sh"), str(tmp_path), "1"],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "wrong=0" in done.stdout
    assert " 0 wrong" in done.stdout


def test_the_corpus_of_the_fuzzer_is_decoded(tmp_path: Path) -> None:
    """Activity buffers with records that are short, unknown, out of order or without end are
    decoded within bounds, and the decoding ends. `make fuzz` looks for more.
    """
    compiled = tmp_path / "replay"
    native = ROOT / "xsp" / "levels" / "_native" / "activity.c"
    subprocess.run(
        ["cc", "-DREPLAY", "-D_GNU_SOURCE", SOURCES / "fuzz_activity.c", native, "-o", compiled],
        check=True,
    )
    corpus = sorted((SOURCES / "corpus").iterdir())
    done = subprocess.run(
        [compiled, *corpus], capture_output=True, text=True, check=True, timeout=240
    )
    assert done.stdout == f"{len(corpus)} inputs\n"


NO_MEMORY = """
import ctypes, os, sys
from xsp.errors import TracingError
from xsp.levels import _native
from xsp.levels._native.activity import ActivityBuffers
from xsp.levels.library.tracer import LibraryTracer

hook = ctypes.CDLL(sys.argv[1])
native = str(_native.LIBRARY)
after = ctypes.c_long.in_dll(hook, "no_memory_after")
asked = ctypes.c_long.in_dll(hook, "no_memory_asked")
for_good = ctypes.c_int.in_dll(hook, "no_memory_for_good")
_native.load()
spans = [
    [int(bound, 16) for bound in line.split()[0].split("-")]
    for line in open("/proc/self/maps") if line.rstrip().endswith(native)
]
ctypes.c_void_p.in_dll(hook, "no_memory_begin").value = min(begin for begin, _ in spans)
ctypes.c_void_p.in_dll(hook, "no_memory_end").value = max(end for _, end in spans)

importer = ctypes.CDLL(sys.argv[2])

def trace_without_memory(number):
    # Whether there were so many allocations that one failed.
    asked.value, after.value = 0, number
    tracer = LibraryTracer(record_limit=4096)
    try:
        ActivityBuffers(4096, 2, 4).prepare()
    except TracingError:
        pass
    try:
        tracer.start()
        assert importer.sgemm(2, 3, 4) == -15
    except TracingError:
        pass
    tracer.stop()
    assert importer.sgemm(2, 3, 4) == -15
    reached, after.value = asked.value, -1
    assert _native.load().xsp_interpose_patched() == 0
    # With memory again it works, except for functions that were refused a stub.
    tracer.collect(), tracer.lost()
    tracer.start()
    assert importer.sgemm(2, 3, 4) == -15
    tracer.stop()
    assert len(tracer.collect()["library_events"]["symbol"]) <= 1
    return reached > number

faults = number = 0
failed = True
while failed:
    for for_good.value in (0, 1):
        child = os.fork()  # the first scan finds most, and there is one in a process
        if child == 0:
            try:
                os._exit(3 if trace_without_memory(number) else 4)
            except BaseException as error:
                print(number, repr(error), file=sys.stderr)
                os._exit(5)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (3, 4), (number, for_good.value, code)
        failed = code == 3
        faults += failed
    number += 1
print(faults)
"""


def test_every_allocation_of_the_native_part_can_fail(libraries: Path, tmp_path: Path) -> None:
    """Without memory, once or for good, at any allocation: tracing is refused or loses calls, no
    crash, the traced program's results are right and its slots restored.
    """
    hook = compile_library(tmp_path / "no_memory.so", "no_memory.c")
    importer = libraries / "importer.so"
    faults = int(script(NO_MEMORY, hook, importer, LD_PRELOAD=str(hook)))
    assert faults > 100


PRELOADED = """
import ctypes, sys
from xsp.levels.library.tracer import LibraryTracer

interposer = ctypes.CDLL(sys.argv[1])
calls = ctypes.c_int.in_dll(interposer, "preloaded_calls")
importer = ctypes.CDLL(sys.argv[2])
tracer = LibraryTracer()
for expected in (1, 2):
    tracer.start()
    assert importer.sgemm(2, 3, 4) == -15
    tracer.stop()
    events = tracer.collect()["library_events"]
    assert [tracer.symbols[symbol] for symbol in events["symbol"]] == ["cublasSgemm_v2"]
    assert calls.value == expected, calls.value
assert importer.sgemm(2, 3, 4) == -15 and calls.value == 3
"""


def test_an_interposer_by_ld_preload_is_called_and_traced(libraries: Path, tmp_path: Path) -> None:
    """Where another tool stands before a library, each call reaches it once, traced or not, and is
    one span that includes it.
    """
    interposer = compile_library(tmp_path / "preloaded.so", "preloaded.c")
    importer = libraries / "importer.so"
    script(PRELOADED, interposer, importer, LD_PRELOAD=str(interposer))


CROWDED = """
import ctypes, sys, torch, xsp

importer = ctypes.CDLL(sys.argv[1])
importer.call_all()
prof = xsp.measure(
    torch.nn.Linear(2, 2), torch.ones(1, 2), levels="M/Lib", iterations=1, warmup=0, progress=False
)
print(*[each for each in prof.warnings if "[untraced-functions]" in each], sep="\\n")
"""
FUNCTIONS = 2100


def test_functions_without_a_stub_are_told(tmp_path: Path) -> None:
    """A process that imports more functions than there are stubs is told how many are missing."""
    library, importer = tmp_path / "crowd.c", tmp_path / "importer.c"
    names = [f"cublasFake{number}" for number in range(FUNCTIONS)]
    library.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in names))
    declarations = "".join(f"int {name}(void);\n" for name in names)
    calls = "".join(f"  sum += {name}();\n" for name in names)
    importer.write_text(
        f"{declarations}int call_all(void) {{\n  int sum = 0;\n{calls}  return sum;\n}}\n"
    )
    compile_library(tmp_path / "libcublas.so", str(library))
    compile_library(tmp_path / "importer.so", str(importer), libraries=("cublas",))
    said = script(CROWDED, tmp_path / "importer.so")
    missing = FUNCTIONS - 2048
    assert said.startswith(f"{missing} imported functions of the libraries are not traced")
