"""Arguments of library calls: kept, decoded, and the FLOPs that they define."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_libraries import address_of, fake, record

from xsp.levels import _native
from xsp.levels._native import interpose
from xsp.levels.library.flops import flops
from xsp.levels.library.symbols import SIGNATURES, is_traced, signature_of
from xsp.levels.library.tracer import decode_arguments, library_of

pytest_plugins = ["fake_libraries"]
pytestmark = [
    pytest.mark.usefixtures("no_slot_left_patched"),
    pytest.mark.skipif(_native.why_missing() is not None, reason=str(_native.why_missing())),
]


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
