"""LIBRARY level: interception of library calls, shown on fake libraries with the real ones' names
and signatures.
"""

from __future__ import annotations

import _ctypes
import ctypes
import functools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quick import TESTED

from xsp.errors import TracingError
from xsp.levels import _native
from xsp.levels._native import interpose
from xsp.levels.library.flops import flops
from xsp.levels.library.symbols import SIGNATURES, is_traced, signature_of
from xsp.levels.library.tracer import LibraryTracer, availability, decode_arguments, library_of
from xsp.types import LIBRARY_EVENTS, Level

pytestmark = pytest.mark.skipif(
    _native.why_missing() is not None, reason=str(_native.why_missing())
)

SOURCES = Path(__file__).with_name("native")
FLAVOURS = {
    "lazy": ["-Wl,-z,lazy"],
    "full relro": ["-Wl,-z,relro,-z,now"],
    "no plt": ["-fno-plt", "-Wl,-z,relro,-z,now"],
}
"""How an importer can reach a function: unresolved slot, read-only slot, read-only slot without a
PLT entry.
"""

PLAN = {
    "cudnnVersion": 91900,
    "operationGraph": {
        "finalizeMode": "CONV_FORWARD",
        "tensors": [
            {
                "name": "119",
                "dataType": "CUDNN_DATA_HALF",
                "dim": [32, 8, 3, 3],
                "stride": [72, 9, 3, 1],
            },
            {
                "name": "120",
                "dataType": "CUDNN_DATA_HALF",
                "dim": [2, 16, 14, 14],
                "stride": [3136, 196, 14, 1],
            },
            {
                "name": "121",
                "dataType": "CUDNN_DATA_HALF",
                "dim": [2, 32, 7, 7],
                "stride": [1568, 49, 7, 1],
            },
        ],
        "nodes": [
            {
                "operation": "CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR",
                "mathPrec": "CUDNN_DATA_FLOAT",
                "pad": [1, 1],
                "stride": [2, 2],
                "dilation": [1, 1],
                "X": "120",
                "W": "119",
                "Y": "121",
                "groupCount": 2,
            }
        ],
    },
    "engine": {"engineId": 28, "smVersion": 900, "knobChoices": {"CUDNN_KNOB_TYPE_TILE_SIZE": 3}},
}
"""What cuDNN 9.19 says of `conv2d(x, w, stride=2, padding=1, groups=2)` in fp16, shortened."""


def compile_library(
    output: Path, source: str, *options: str, libraries: tuple[str, ...] = ()
) -> Path:
    """A shared library made of one of the sources beside this file; it finds its own libraries in
    its folder.
    """
    compiler = ["c++"] if source.endswith(".cpp") else ["cc"]
    link = ["-L", str(output.parent), *(f"-l{name}" for name in libraries), "-Wl,-rpath,$ORIGIN"]
    command = [
        *compiler,
        "-O1",
        "-g",
        "-shared",
        "-fPIC",
        "-fexceptions",
        *options,
        str(SOURCES / source),
        *link,
    ]
    subprocess.run([*command, "-o", str(output)], check=True)
    return output


@pytest.fixture(scope="session")
def fakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libcublasLt, libcublas and libcudnn."""
    folder = tmp_path_factory.mktemp("fakes")
    compile_library(folder / "libcublasLt.so", "fake_cublasLt.c")
    compile_library(folder / "libcublas.so", "fake_cublas.c", libraries=("cublasLt",))
    text = json.dumps(json.dumps(PLAN))
    compile_library(folder / "libcudnn.so", "fake_cudnn.c", f"-DFAKE_PLAN_JSON={text}")
    return folder


@pytest.fixture(scope="session")
def build_importer(fakes: Path) -> Callable[[str, str], Path]:
    """A function that compiles an importer, once for each name."""

    @functools.cache
    def build(name: str, flavour: str) -> Path:
        options = FLAVOURS[flavour]
        return compile_library(
            fakes / f"{name}.so", "importer.c", *options, libraries=("cublas", "cublasLt", "cudnn")
        )

    return build


def load_importer(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.blend.restype = ctypes.c_double
    library.blend.argtypes = [ctypes.c_double, ctypes.c_int]
    library.many.argtypes = [ctypes.c_long]
    library.lt_matmul.argtypes = [ctypes.c_void_p] * 4
    library.execute.argtypes = [ctypes.c_void_p]
    return library


@pytest.fixture(params=list(FLAVOURS))
def any_importer(
    request: pytest.FixtureRequest, build_importer: Callable[[str, str], Path]
) -> ctypes.CDLL:
    """Each kind of importer in turn."""
    return load_importer(build_importer(request.param.replace(" ", "_"), request.param))


@pytest.fixture
def importer(build_importer: Callable[[str, str], Path]) -> ctypes.CDLL:
    """The kind of importer that PyTorch is."""
    return load_importer(build_importer("lazy", "lazy"))


@pytest.fixture(autouse=True)
def no_slot_left_patched() -> Iterator[None]:
    """Fail a test that leaves a slot leading to a stub, and take no events over into the next."""
    yield
    assert interpose.functions().xsp_interpose_patched() == 0
    tracer = LibraryTracer()
    tracer.collect()
    tracer.lost()


def fake(fakes: Path, library: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(fakes / f"{library}.so"))


def address_of(library: ctypes.CDLL, name: str) -> int:
    return ctypes.addressof(ctypes.c_char.in_dll(library, name))


def received(fakes: Path, count: int) -> list[int]:
    """The arguments that the fake cuBLAS was last called with."""
    return list((ctypes.c_int64 * count).in_dll(fake(fakes, "libcublas"), "fake_arguments"))


def image_of(path: Path) -> list[tuple[str, bytes]]:
    """Address range with protection, and bytes, of everything a loaded file has in memory except
    its code.
    """
    image = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            span, protection = line.split()[:2]
            begin, end = (int(bound, 16) for bound in span.split("-"))
            image.append((f"{span} {protection}", ctypes.string_at(begin, end - begin)))
    return image


def slot_of(path: Path, symbol: str) -> int:
    """Address of the import slot of a symbol, from the file's relocations."""
    lines = subprocess.run(
        ["readelf", "-rW", str(path)], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    offset = next(int(line.split()[0], 16) for line in lines if line.split()[4:5] == [symbol])
    return int(image_of(path)[0][0].split("-")[0], 16) + offset


def record(function: Callable[[], Any], **options: Any) -> tuple[LibraryTracer, dict[str, Any]]:
    """A stopped tracer and the events of one call of `function`."""
    tracer = LibraryTracer(**options)
    tracer.start()
    try:
        function()
    finally:
        tracer.stop()
    return tracer, tracer.collect()["library_events"]


def names(tracer: LibraryTracer, events: dict[str, Any]) -> list[str]:
    return [tracer.symbols[symbol] for symbol in events["symbol"]]


def test_arguments_and_results_pass_unchanged(any_importer: ctypes.CDLL, fakes: Path) -> None:
    """Negative ints, pointers, 64-bit values, 25 arguments, doubles and results arrive as without
    tracing.
    """
    untraced = any_importer.blend(1.25, 7)

    def calls() -> None:
        assert any_importer.sgemm(-3, 4, 5) == -15
        assert received(fakes, 14) == [1, 0, 1, -3, 4, 5, 7, 8, -9, 10, 11, 12, 13, -14]
        assert any_importer.gemm_strided(3, 4, 5, 6) == -15
        strided = [
            1,
            1,
            0,
            3,
            4,
            5,
            7,
            8,
            14,
            10,
            -11,
            12,
            14,
            14,
            1 << 40,
            16,
            17,
            14,
            19,
            20,
            6,
            77,
            -1,
        ]
        assert received(fakes, 23) == strided
        assert any_importer.many(-1) == -15
        assert received(fakes, 25) == [-1, *range(2, 25), -25]
        assert (
            any_importer.blend(1.25, 7)
            == untraced
            == 1.25 + 3 + 6 + 12 + 20 + 30 + 42 + 56 + 72 - 21
        )

    tracer, events = record(calls)
    expected = ["cublasSgemm_v2", "cublasGemmStridedBatchedEx", "cublasFakeMany", "cublasFakeBlend"]
    assert names(tracer, events) == expected


def test_slots_and_protection_are_restored(build_importer: Callable[[str, str], Path]) -> None:
    """After `stop` an importer's memory is what it was, byte for byte, and read-only pages are
    read-only again.
    """
    for flavour in FLAVOURS:
        path = build_importer(f"restored_{flavour.replace(' ', '_')}", flavour)
        importer = load_importer(path)
        before = image_of(path)
        tracer = LibraryTracer()
        tracer.start()
        importer.sgemm(1, 2, 3)
        during = image_of(path)
        tracer.stop()
        assert [where for where, _ in during] == [where for where, _ in before]
        assert during != before
        assert image_of(path) == before


def test_slots_are_restored_when_the_target_raises(importer: ctypes.CDLL) -> None:
    """`stop` in a `finally` leaves nothing patched, and stopping a tracer that never started is
    harmless.
    """
    with pytest.raises(ctypes.ArgumentError):
        record(lambda: importer.sgemm(object(), 4, 5))
    LibraryTracer().stop()
    assert interpose.functions().xsp_interpose_patched() == 0


def test_a_slot_taken_over_by_another_tool_stays_its_own(
    build_importer: Callable[[str, str], Path],
) -> None:
    """What someone else writes into a slot while recording is still there after `stop`, and is
    called next time.
    """
    path = build_importer("taken_over", "lazy")
    importer = load_importer(path)
    tracer = LibraryTracer()
    tracer.start()
    slot = ctypes.c_uint64.from_address(slot_of(path, "cublasSgemm_v2"))
    other = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 77)
    slot.value = ctypes.cast(other, ctypes.c_void_p).value or 0
    tracer.stop()
    assert importer.sgemm(1, 2, 3) == 77
    tracer.start()
    assert importer.sgemm(1, 2, 3) == 77
    tracer.stop()
    assert names(tracer, tracer.collect()["library_events"]) == ["cublasSgemm_v2"]
    assert slot.value == ctypes.cast(other, ctypes.c_void_p).value


def test_events_follow_the_schema(importer: ctypes.CDLL) -> None:
    """Columns have the contract's types, times lie within the run on the monotonic clock, rows are
    in order.
    """
    begin = time.perf_counter_ns()
    tracer, events = record(lambda: importer.sgemm_many_times(50))
    end = time.perf_counter_ns()
    assert tracer.level is Level.LIBRARY
    assert {name: column.dtype for name, column in events.items()} == {
        name: dtype.base for name, dtype in LIBRARY_EVENTS.items()
    }
    assert events["arguments"].shape == (50, 8)
    assert (events["thread"] == threading.get_ident() & 0xFFFFFFFF).all()
    assert begin <= events["start_ns"][0]
    assert (events["start_ns"] <= events["end_ns"]).all()
    assert (events["end_ns"][:-1] <= events["start_ns"][1:]).all()
    assert events["end_ns"][-1] <= end
    assert tracer.lost() == 0


def test_a_library_calling_another_is_one_call(importer: ctypes.CDLL, fakes: Path) -> None:
    """cuBLAS working through cuBLASLt is one cuBLAS call; the caller's own cuBLASLt call is
    traced.
    """
    calls = ctypes.c_int64.in_dll(fake(fakes, "libcublasLt"), "fake_lt_calls")
    before = calls.value
    tracer, events = record(
        lambda: (importer.gemm_ex(1, 2, 3), importer.lt_matmul(None, None, None, None))
    )
    assert calls.value - before == 2
    assert names(tracer, events) == ["cublasGemmEx", "cublasLtMatmul"]


def test_a_call_from_inside_a_call_is_not_traced_twice(importer: ctypes.CDLL) -> None:
    """A library that calls back into code which calls the library again makes one span."""
    inner = ctypes.CFUNCTYPE(None)(lambda: importer.sgemm(1, 2, 3))
    tracer, events = record(lambda: importer.call(inner))
    assert names(tracer, events) == ["cublasFakeCall"]
    assert tracer.lost() == 0


def test_threads_keep_their_own_records(importer: ctypes.CDLL) -> None:
    """Four threads that then exit leave 2 500 calls each, in order, under their own thread
    number.
    """
    idents = []
    barrier = threading.Barrier(4)

    def work() -> None:
        idents.append(threading.get_ident() & 0xFFFFFFFF)
        barrier.wait()
        importer.sgemm_many_times(2500)

    def calls() -> None:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    tracer, events = record(calls)
    assert tracer.lost() == 0
    assert sorted(set(events["thread"].tolist())) == sorted(idents)
    for ident in idents:
        m = decode_arguments("cublasSgemm_v2", events["arguments"][events["thread"] == ident])["m"]
        assert m.tolist() == list(range(2500))


def test_a_call_still_running_at_stop_is_counted_lost(importer: ctypes.CDLL) -> None:
    """A call that outlives its run returns safely, is counted lost, and does not show up in the
    next run.
    """
    tracer = LibraryTracer()
    tracer.start()
    sleeper = threading.Thread(target=importer.nap, args=(150,))
    sleeper.start()
    threading.Event().wait(0.05)
    tracer.stop()
    tracer.start()
    importer.sgemm(1, 2, 3)
    sleeper.join()
    tracer.stop()
    assert names(tracer, tracer.collect()["library_events"]) == ["cublasSgemm_v2"]
    assert tracer.lost() == 1
    assert tracer.lost() == 0


def test_a_library_loaded_later_is_traced_from_the_next_start(
    build_importer: Callable[[str, str], Path],
) -> None:
    """Importers loaded between two runs, as libtorch_cuda_linalg is, are found by the second."""
    path = build_importer("loaded_later", "lazy")
    tracer = LibraryTracer()
    tracer.start()
    tracer.stop()
    importer = load_importer(path)
    tracer.start()
    importer.sgemm(1, 2, 3)
    tracer.stop()
    assert names(tracer, tracer.collect()["library_events"]) == ["cublasSgemm_v2"]


def test_a_library_loaded_while_recording_is_told(
    build_importer: Callable[[str, str], Path],
) -> None:
    """Its calls cannot be seen, so the run says that something is missing; the next one is
    complete.
    """
    path = build_importer("loaded_while_recording", "lazy")
    tracer, events = record(lambda: load_importer(path).sgemm(1, 2, 3))
    assert len(events["symbol"]) == 0
    assert tracer.lost() == 1
    tracer.start()
    tracer.stop()
    assert tracer.lost() == 0


def test_a_library_unloaded_while_recording_is_survived(
    build_importer: Callable[[str, str], Path],
) -> None:
    """`stop` writes nothing to an importer that was closed, nor to one loaded in its place; that
    one is traced next.
    """
    path = build_importer("unloaded", "full relro")
    importer = load_importer(path)
    tracer = LibraryTracer()
    tracer.start()
    importer.sgemm(1, 2, 3)
    _ctypes.dlclose(importer._handle)
    assert image_of(path) == []
    importer = load_importer(path)
    before = image_of(path)
    tracer.stop()
    assert image_of(path) == before
    tracer.start()
    importer.sgemm(4, 5, 6)
    tracer.stop()
    assert image_of(path) == before
    assert tracer.collect()["library_events"]["arguments"][:, 2].tolist() == [1, 4]


def test_calls_beyond_the_limit_are_counted(importer: ctypes.CDLL) -> None:
    """Every call is either in the events or in `lost`, and a collection makes room again."""
    for _ in range(2):
        tracer, events = record(lambda: importer.sgemm_many_times(5000), record_limit=1024)
        lost = tracer.lost()
        assert lost > 0
        assert len(events["symbol"]) >= 1024
        assert len(events["symbol"]) + lost == 5000


def test_only_one_tracer_records(
    importer: ctypes.CDLL, build_importer: Callable[[str, str], Path]
) -> None:
    """A second tracer is refused with the way out, also after libraries changed; the first goes on
    undisturbed.
    """
    closed = load_importer(build_importer("closed", "lazy"))
    first = LibraryTracer()
    first.start()
    _ctypes.dlclose(closed._handle)
    with pytest.raises(TracingError, match="stop that one first"):
        LibraryTracer(structure=True).start()
    importer.sgemm(1, 2, 3)
    first.stop()
    assert names(first, first.collect()["library_events"]) == ["cublasSgemm_v2"]


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_exceptions_pass_through(fakes: Path) -> None:
    """An exception thrown inside a call reaches its handler; that call counts as lost and the next
    one is traced.
    """
    path = compile_library(fakes / "thrower.so", "thrower.cpp", libraries=("cublas",))
    thrower = ctypes.CDLL(str(path))
    tracer, events = record(thrower.caught)
    assert names(tracer, events) == ["cublasSgemm_v2"]
    assert tracer.lost() == 1


def test_lt_matmul_is_decoded_from_its_descriptors(importer: ctypes.CDLL, fakes: Path) -> None:
    """m, n, k, batch, types, transposition and epilogue of a cuBLASLt product come from its
    descriptors.
    """
    lt = fake(fakes, "libcublasLt")
    pointers = [address_of(lt, name) for name in ("fake_desc", "fake_a", "fake_b", "fake_d")]
    tracer, _ = record(lambda: importer.lt_matmul(*pointers), structure=True)
    (call,) = tracer.details
    sizes = {"m": 128, "n": 32, "k": 64, "batch_count": 3, "lda": 64, "workspace_bytes": 4096}
    types = {
        "a_type": "CUDA_R_16F",
        "d_type": "CUDA_R_16BF",
        "compute_type": "CUBLAS_COMPUTE_32F_FAST_TF32",
    }
    how = {"transa": "CUBLAS_OP_T", "transb": "CUBLAS_OP_N", "epilogue": "CUBLASLT_EPILOGUE_BIAS"}
    expected = {**sizes, **types, **how, "flops": 2 * 128 * 32 * 64 * 3}
    assert expected.items() <= call.items()


def test_a_plan_is_decoded_once_a_run(importer: ctypes.CDLL, fakes: Path) -> None:
    """A cuDNN plan tells operation, tensors, engine and FLOPs; executing it twice asks
    cuDNN once.
    """
    cudnn = fake(fakes, "libcudnn")
    plan = address_of(cudnn, "fake_plan")
    reads = ctypes.c_int64.in_dll(cudnn, "fake_json_reads")
    before = reads.value
    tracer, events = record(
        lambda: (importer.execute(plan), importer.execute(plan)), structure=True
    )
    assert len(events["symbol"]) == 2
    assert reads.value - before == 1
    assert tracer.details[0] == tracer.details[1]
    call = tracer.details[0]
    assert (call["graph"], call["engine"]) == ("CONV_FORWARD", 28)
    (operation,) = call["operations"]
    assert operation["operation"] == "CONVOLUTION_FORWARD"
    assert operation["W"] == {
        "dims": [32, 8, 3, 3],
        "strides": [72, 9, 3, 1],
        "type": "CUDNN_DATA_HALF",
    }
    assert call["flops"] == 2 * (2 * 32 * 7 * 7) * (8 * 3 * 3)


def test_a_failing_decoder_is_noted_on_its_call(importer: ctypes.CDLL, fakes: Path) -> None:
    """A getter that refuses leaves a reason on that call only; program and neighbouring calls are
    untouched.
    """
    broken = address_of(fake(fakes, "libcudnn"), "fake_broken_plan")
    tracer, events = record(
        lambda: (importer.execute(broken), importer.sgemm(1, 2, 3)), structure=True
    )
    assert len(events["symbol"]) == 2
    assert tracer.details[0] == {
        "undecoded": "DecodingError: cudnnBackendGetAttribute returned 3000"
    }
    assert tracer.details[1]["flops"] == 12


def test_the_structure_run_reads_what_records_have_no_room_for(importer: ctypes.CDLL) -> None:
    """All ten arguments of a strided batched product are told, eight of them in timed runs too."""
    tracer, events = record(lambda: importer.gemm_strided(3, 4, 5, 6), structure=True)
    expected = {
        "m": 3,
        "n": 4,
        "k": 5,
        "batch_count": 6,
        "a_type": "CUDA_R_16BF",
        "transa": "CUBLAS_OP_T",
    }
    timed = {
        k: v[0]
        for k, v in decode_arguments("cublasGemmStridedBatchedEx", events["arguments"]).items()
    }
    assert expected.items() <= timed.items()
    more = {"b_type": "CUDA_R_16BF", "c_type": "CUDA_R_16BF", "flops": 2 * 3 * 4 * 5 * 6}
    assert {**timed, **more}.items() <= tracer.details[0].items()


def test_timed_runs_have_no_details(importer: ctypes.CDLL) -> None:
    """Outside the structure run nothing is decoded while the program runs."""
    tracer, _ = record(lambda: importer.execute(None))
    assert tracer.details == []


def test_kept_arguments_are_sign_extended_by_their_width() -> None:
    """The `_64` variants of cuBLAS record whole 64-bit sizes, the others ints."""
    assert {p.name: p.bits for p in signature_of("cublasSgemm_v2").recorded}["m"] == 32
    assert {p.name: p.bits for p in signature_of("cublasSgemm_v2_64").recorded}["m"] == 64
    assert {p.name: p.bits for p in signature_of("cublasSgemm_v2_64").recorded}["transa"] == 32


def test_unknown_enumerators_are_shown_as_numbers() -> None:
    """A data type newer than the table does not fail and does not get a wrong name."""
    arguments = np.array([[512, 99, 0, 0, 0, 0, 0, 0], [1, 7, 2, 0, 0, 0, 0, 0]], np.int64)
    columns = decode_arguments("ncclAllReduce", arguments)
    assert columns["count"].tolist() == [512, 1]
    assert columns["type"].tolist() == ["99", "ncclFloat32"]
    assert columns["operation"].tolist() == ["ncclSum", "ncclMax"]
    assert decode_arguments("ncclAllReduce", arguments[:0])["type"].tolist() == []


@pytest.mark.parametrize(
    ("symbol", "library"),
    [
        ("cublasGemmEx", "cuBLAS"),
        ("cublasLtMatmul", "cuBLASLt"),
        ("cudnnBackendExecute", "cuDNN"),
        ("cufftXtExec", "cuFFT"),
        ("cusparseSpMM", "cuSPARSE"),
        ("cusparseLtMatmul", "cuSPARSELt"),
        ("cusolverDnSgetrf", "cuSOLVER"),
        ("ncclAllReduce", "NCCL"),
    ],
)
def test_symbols_belong_to_their_library(symbol: str, library: str) -> None:
    """The library is told by the longest fitting prefix."""
    assert library_of(symbol) == library
    assert is_traced(symbol)


@pytest.mark.parametrize(
    "symbol",
    [
        "cublasCreate_v2",
        "cublasLtMatmulDescSetAttribute",
        "cudnnBackendGetAttribute",
        "cusparseSpMM_bufferSize",
    ],
)
def test_bookkeeping_is_left_alone(symbol: str) -> None:
    """Creating, destroying, getting and setting make no spans."""
    assert not is_traced(symbol)


def test_every_signature_fits_its_record() -> None:
    """No symbol of the table records more than eight arguments, or one beyond the copied stack."""
    for symbol, signature in SIGNATURES.items():
        assert len(signature.recorded) <= interpose.KEPT, symbol
        assert all(p.position < 38 for p in signature.parameters), symbol


def attention(query: list[int], key: list[int]) -> dict[str, Any]:
    """A node of attention as cuDNN describes it; values have the dimensions of keys."""
    return {"operation": "SDPA_FWD", "Q": {"dims": query}, "K": {"dims": key}, "V": {"dims": key}}


@pytest.mark.parametrize(
    ("symbol", "call", "count"),
    [
        ("cublasCgemm_v2", {"m": 2, "n": 3, "k": 4, "data_type": "CUDA_C_32F"}, 8 * 24),
        ("cublasSgemv_v2", {"m": 2, "n": 3, "data_type": "CUDA_R_32F"}, 12),
        (
            "cublasStrsm_v2",
            {"m": 2, "n": 3, "side": "CUBLAS_SIDE_RIGHT", "data_type": "CUDA_R_32F"},
            18,
        ),
        ("cublasLtMatmulAlgoGetHeuristic", {"m": 2, "n": 3, "k": 4}, None),
        (
            "cusparseSpMM",
            {"a": {"nonzeros": 10}, "c": {"cols": 6}, "compute_type": "CUDA_R_32F"},
            120,
        ),
        (
            "cudnnConvolutionBackwardData",
            {"dy": {"dims": [2, 8, 5, 5]}, "w": {"dims": [8, 4, 3, 3]}},
            2 * 400 * 36,
        ),
        ("cudnnSoftmaxForward", {"x": {"dims": [1]}}, None),
        (
            "cudnnBackendExecute",
            {"operations": [attention([2, 4, 7, 8], [2, 2, 5, 8])]},
            2 * (2 * 4 * 7) * 5 * (8 + 8),
        ),
        ("cudnnBackendExecute", {"operations": [attention([2, 4, 7, 8], [2, 4, 8, 5])]}, None),
        ("cublasLtMatmul", {"undecoded": "reason"}, None),
    ],
)
def test_flops(symbol: str, call: dict[str, Any], count: int | None) -> None:
    """FLOPs follow the textbook formulas, complex ones counted four times, and are absent where
    undefined.
    """
    assert flops(symbol, call) == count


def test_availability_names_the_way_out() -> None:
    """In a process without CUDA libraries one sentence says so; with an importer loaded nothing
    stands in the way.
    """
    code = "import xsp.levels.library.tracer as l; print(l.availability())"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=TESTED, capture_output=True, text=True, check=True)
    assert "install a CUDA build of torch" in result.stdout


def test_availability_with_an_importer(importer: ctypes.CDLL) -> None:
    """A loaded importer of cuBLAS is enough."""
    assert availability() is None


@pytest.mark.gpu
def test_pytorch_on_a_gpu() -> None:
    """A linear layer and a convolution reach cuBLASLt and cuDNN with the shapes of the model,
    outputs unchanged.
    """
    import torch

    linear = torch.nn.Linear(64, 48, device="cuda", dtype=torch.float16)
    convolution = torch.nn.Conv2d(
        16, 32, 3, stride=2, padding=1, groups=2, device="cuda", dtype=torch.float16
    )
    rows, image = (
        torch.randn(9, 64).to("cuda", torch.float16),
        torch.randn(2, 16, 14, 14).to("cuda", torch.float16),
    )
    expected = linear(rows), convolution(image)
    outputs: list[Any] = []
    tracer, events = record(
        lambda: outputs.extend((linear(rows), convolution(image))), structure=True
    )
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))
    calls = dict(zip(names(tracer, events), tracer.details, strict=True))
    assert {"m": 48, "n": 9, "k": 64, "flops": 2 * 48 * 9 * 64}.items() <= calls[
        "cublasLtMatmul"
    ].items()
    (operation,) = calls["cudnnBackendExecute"]["operations"]
    assert operation["X"]["dims"] == [2, 16, 14, 14]
    assert calls["cudnnBackendExecute"]["flops"] == 2 * (2 * 32 * 7 * 7) * (8 * 3 * 3)
    assert tracer.lost() == 0
