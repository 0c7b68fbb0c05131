"""THE table of library symbols: each family of functions once, with the arguments worth keeping.

A signature lists the C parameters in their order, one word each: `.` is not kept, `name` is an
`int`, `name:kind` is anything else, and what follows the last word of interest is left out. Kinds
are `long` (64 bits), an enumeration of `enums`, or a descriptor that a function of `decoders`
reads. `name?` is read in the structure run only, because a timed record has room for eight. Only
INTEGER-class parameters are counted (System V ABI): a `double`, as in batch normalisation, is
skipped. No function listed takes a structure by value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from xsp.levels._native.interpose import KEPT
from xsp.levels.library.enums import ENUMERATIONS

_GEMM = ". transa:operation transb:operation m n k"

_TABLE: Mapping[str, str] = {
    # cuBLAS. Names without _v2 are the first API, which has no handle and takes scalars by value;
    # its calls are traced by name.
    "cublas{S,D,C,Z}gemm_v2 cublas{C,Z}gemm3m cublasHgemm": _GEMM,
    "cublas{S,D,C,Z,H}gemmBatched": f"{_GEMM} . . . . . . . . batch_count",
    "cublas{S,D,C,Z,H}gemmStridedBatched": f"{_GEMM} . . . . . . . . . . . batch_count",
    "cublas{S,C}gemmEx": f"{_GEMM} . . a_type:data_type . . b_type:data_type . . . "
    "c_type:data_type",
    "cublasGemmEx": f"{_GEMM} . . a_type:data_type . . b_type?:data_type . . . c_type:data_type . "
    "compute_type:compute_type",
    "cublasGemmBatchedEx": f"{_GEMM} . . a_type:data_type . . b_type?:data_type . . . "
    "c_type?:data_type . "
    "batch_count compute_type:compute_type",
    "cublasGemmStridedBatchedEx": f"{_GEMM} . . a_type:data_type . . . b_type?:data_type . . . . "
    "c_type?:data_type . . "
    "batch_count compute_type:compute_type",
    "cublasGemmGroupedBatchedEx": ". . . . . . . . a_type:data_type . . b_type:data_type . . . "
    "c_type:data_type . "
    "group_count . compute_type:compute_type",
    "cublas{S,D,C,Z}gemv_v2": ". trans:operation m n",
    "cublas{S,D}ger_v2 cublas{C,Z}ger{u,c}_v2": ". m n",
    "cublas{S,D,C,Z}{trsm,trmm}_v2": ". side:side uplo:fill trans:operation diag:diagonal m n",
    "cublas{S,D,C,Z}trsmBatched": ". side:side uplo:fill trans:operation diag:diagonal m n . . . . "
    ". batch_count",
    "cublas{S,D,C,Z}{trsv,trmv}_v2": ". uplo:fill trans:operation diag:diagonal n",
    "cublas{S,D,C,Z}symm_v2 cublas{C,Z}hemm_v2": ". side:side uplo:fill m n",
    "cublas{S,D,C,Z}{syrk,syr2k}_v2 cublas{C,Z}{herk,her2k}_v2": ". uplo:fill trans:operation n k",
    "cublas{S,D,C,Z}{symv,syr,syr2}_v2 cublas{C,Z}{hemv,her,her2}_v2": ". uplo:fill n",
    "cublas{S,D}{dot,asum,nrm2}_v2 cublas{S,D,C,Z}{axpy,scal,copy,swap,rot}_v2 cublasDotEx": ". n",
    "cublas{C,Z}dot{u,c}_v2 cublas{Sc,Dz}{asum,nrm2}_v2 cublas{Cs,Zd}{scal,rot}_v2": ". n",
    "cublasI{s,d,c,z}{amax,amin}_v2 cublas{S,D}rotm_v2": ". n",
    "cublas{S,D,C,Z}getrfBatched": ". n . . . . batch_count",
    "cublas{S,D,C,Z}getrsBatched": ". trans:operation n nrhs . . . . . . batch_count",
    "cublas{S,D,C,Z}geqrfBatched": ". m n . . . . batch_count",
    "cublas{S,D,C,Z}gelsBatched": ". trans:operation m n nrhs . . . . . . batch_count",
    # cuBLASLt
    "cublasLtMatmul": ". desc:lt_matmul . . a:lt_layout . b:lt_layout . . c:lt_layout . "
    "d:lt_layout . . "
    "workspace_bytes:long",
    "cublasLtMatmulAlgoGetHeuristic": ". desc:lt_matmul a:lt_layout b:lt_layout c:lt_layout "
    "d:lt_layout . "
    "requested_algorithms",
    # cuDNN, graph API
    "cudnnBackendExecute": ". plan:plan",
    # cuDNN, legacy API
    "cudnnConvolutionForward": ". . x:tensor . w:filter . convolution:convolution algorithm . "
    "workspace_bytes:long . "
    "y:tensor",
    "cudnnConvolutionBiasActivationForward": ". . x:tensor . w:filter . convolution:convolution "
    "algorithm . "
    "workspace_bytes:long . z:tensor . bias:tensor . . y:tensor",
    "cudnnConvolutionBackwardData": ". . w:filter . dy:tensor . convolution:convolution algorithm "
    ". "
    "workspace_bytes:long . dx:tensor",
    "cudnnConvolutionBackwardFilter": ". . x:tensor . dy:tensor . convolution:convolution "
    "algorithm . "
    "workspace_bytes:long . dw:filter",
    "cudnnConvolutionBackwardBias": ". . dy:tensor . . db:tensor",
    "cudnnFindConvolutionForwardAlgorithmEx": ". x:tensor . w:filter . convolution:convolution "
    "y:tensor",
    "cudnnFindConvolutionBackwardDataAlgorithmEx": ". w:filter . dy:tensor . "
    "convolution:convolution dx:tensor",
    "cudnnFindConvolutionBackwardFilterAlgorithmEx": ". x:tensor . dy:tensor . "
    "convolution:convolution dw:filter",
    "cudnnGetConvolutionForwardAlgorithm_v7": ". x:tensor w:filter convolution:convolution "
    "y:tensor",
    "cudnnGetConvolutionBackwardDataAlgorithm_v7": ". w:filter dy:tensor convolution:convolution "
    "dx:tensor",
    "cudnnGetConvolutionBackwardFilterAlgorithm_v7": ". x:tensor dy:tensor convolution:convolution "
    "dw:filter",
    "cudnnPoolingForward": ". pooling:pooling . x:tensor . . y:tensor",
    "cudnnPoolingBackward": ". pooling:pooling . y:tensor . dy:tensor . x:tensor . . dx:tensor",
    "cudnnActivationForward": ". . . x:tensor",
    "cudnnActivationBackward": ". . . y:tensor",
    "cudnnSoftmaxForward": ". algorithm:softmax mode:softmax_mode . x:tensor . . y:tensor",
    "cudnnSoftmaxBackward": ". algorithm:softmax mode:softmax_mode . y:tensor . dy:tensor . . "
    "dx:tensor",
    "cudnnBatchNormalizationForward{Inference,Training}": ". mode:batch_norm . . x:tensor . "
    "y:tensor",
    "cudnnBatchNormalizationForwardTrainingEx": ". mode:batch_norm operations . . x:tensor",
    "cudnnBatchNormalizationBackward": ". mode:batch_norm . . . . x:tensor . dy:tensor . dx:tensor",
    "cudnnBatchNormalizationBackwardEx": ". mode:batch_norm operations . . . . x:tensor",
    "cudnnRNNForward": ". rnn:rnn mode:forward_mode . x:rnn_data . y:rnn_data",
    "cudnnRNNBackwardData_v8": ". rnn:rnn . y:rnn_data . . x:rnn_data",
    "cudnnRNNBackwardWeights_v8": ". rnn:rnn . . x:rnn_data . . . y:rnn_data",
    "cudnnCTCLoss": ". probabilities:tensor",
    "cudnnCTCLoss_v8": ". . . probabilities:tensor",
    "cudnnDropoutForward": ". . x:tensor",
    "cudnnDropoutBackward": ". . dy:tensor",
    "cudnnSpatialTfSampler{Forward,Backward}": ". . . x:tensor",
    # cuFFT
    "cufftExec{C2C,Z2Z}": "plan . . direction:fft_direction",
    "cufftExec{R2C,C2R,D2Z,Z2D}": "plan",
    "cufftXtExec": "plan . . direction:fft_direction",
    "cufftMakePlan1d": "plan nx type:fft_type batch",
    "cufftMakePlan2d": "plan nx ny type:fft_type",
    "cufftMakePlan3d": "plan nx ny nz type:fft_type",
    "cufftMakePlanMany": "plan rank . . . . . . . type:fft_type batch",
    "cufftMakePlanMany64": "plan rank . . . . . . . type:fft_type batch:long",
    "cufftXtMakePlanMany": "plan rank . . . . input_type:data_type . . . output_type:data_type "
    "batch:long",
    # cuSPARSE
    "cusparseSpMV": ". opa:sparse_operation . a:sparse_matrix x:dense_vector . y:dense_vector "
    "compute_type:data_type",
    "cusparseSpMM": ". opa:sparse_operation opb:sparse_operation . a:sparse_matrix b:dense_matrix "
    ". c:dense_matrix "
    "compute_type:data_type algorithm",
    "cusparseSDDMM": ". opa:sparse_operation opb:sparse_operation . a:dense_matrix b:dense_matrix "
    ". c:sparse_matrix "
    "compute_type:data_type algorithm",
    "cusparseSpSM_{analysis,solve}": ". opa:sparse_operation opb:sparse_operation . "
    "a:sparse_matrix b:dense_matrix "
    "c:dense_matrix compute_type:data_type",
    "cusparseSpSV_{analysis,solve}": ". opa:sparse_operation . a:sparse_matrix x:dense_vector "
    "y:dense_vector "
    "compute_type:data_type",
    "cusparseSpGEMM_{workEstimation,compute,copy}": ". opa:sparse_operation opb:sparse_operation . "
    "a:sparse_matrix "
    "b:sparse_matrix . c:sparse_matrix compute_type:data_type",
    "cusparse{S,D,C,Z}bsrmm": ". . opa:sparse_operation opb:sparse_operation mb n kb nnzb",
    "cusparse{S,D,C,Z}bsrmv": ". . opa:sparse_operation mb nb nnzb",
    # cuSOLVER
    "cusolverDn{S,D,C,Z}{getrf,geqrf}": ". m n",
    "cusolverDn{S,D,C,Z}getrs": ". trans:operation n nrhs",
    "cusolverDn{S,D,C,Z}{potrf,sytrf}": ". uplo:fill n",
    "cusolverDn{S,D,C,Z}potrs": ". uplo:fill n nrhs",
    "cusolverDn{S,D,C,Z}potrfBatched": ". uplo:fill n . . . batch_count",
    "cusolverDn{S,D,C,Z}potrsBatched": ". uplo:fill n nrhs . . . . . batch_count",
    "cusolverDn{S,D}orgqr cusolverDn{C,Z}ungqr": ". m n k",
    "cusolverDn{S,D}ormqr cusolverDn{C,Z}unmqr": ". side:side trans:operation m n k",
    "cusolverDn{S,D,C,Z}gesvd": ". . . m n",
    "cusolverDn{S,D,C,Z}gesvdj": ". jobz:eigenvectors economy m n",
    "cusolverDn{S,D,C,Z}gesvdjBatched": ". jobz:eigenvectors m n . . . . . . . . . . . batch_count",
    "cusolverDn{S,D,C,Z}gesvdaStridedBatched": ". jobz:eigenvectors rank m n . . . . . . . . . . . "
    ". . . . batch_count",
    "cusolverDn{S,D}{syevd,syevj} cusolverDn{C,Z}{heevd,heevj}": ". jobz:eigenvectors uplo:fill n",
    "cusolverDn{S,D}syevjBatched cusolverDn{C,Z}heevjBatched": ". jobz:eigenvectors uplo:fill n . "
    ". . . . . . "
    "batch_count",
    "cusolverDnX{getrf,geqrf}": ". . m:long n:long a_type:data_type",
    "cusolverDnXpotrf": ". . uplo:fill n:long a_type:data_type",
    "cusolverDnXpotrs": ". . uplo:fill n:long nrhs:long a_type:data_type",
    "cusolverDnXsytrs": ". uplo:fill n:long nrhs:long a_type:data_type",
    "cusolverDnXsyevd": ". . jobz:eigenvectors uplo:fill n:long a_type:data_type",
    "cusolverDnXsyevBatched": ". . jobz:eigenvectors uplo:fill n:long a_type:data_type . . . . . . "
    ". . . . "
    "batch_count:long",
    "cusolverDnXgeev": ". . jobvl:eigenvectors jobvr:eigenvectors n:long a_type:data_type",
    # NCCL
    "ncclAllReduce": ". . count:long type:nccl_type operation:nccl_operation",
    "ncclReduce": ". . count:long type:nccl_type operation:nccl_operation root",
    "ncclReduceScatter": ". . count:long type:nccl_type operation:nccl_operation",
    "nccl{AllGather,AlltoAll}": ". . count:long type:nccl_type",
    "nccl{Broadcast,Gather,Scatter}": ". . count:long type:nccl_type root",
    "ncclBcast": ". count:long type:nccl_type root",
    "nccl{Send,Recv}": ". count:long type:nccl_type peer",
}


@dataclass(frozen=True)
class Parameter:
    """One C parameter: its position among the INTEGER-class ones, its kind, and whether timed runs
    record it.
    """

    name: str
    position: int
    kind: str = "int"
    timed: bool = True

    @property
    def is_value(self) -> bool:
        """Whether the argument itself is the information, rather than what a descriptor says."""
        return self.kind in ("int", "long") or self.kind in ENUMERATIONS

    @property
    def bits(self) -> int:
        """32 for `int` and enumerations, 64 for `long` and descriptors."""
        return 32 if self.kind == "int" or self.kind in ENUMERATIONS else 64


@dataclass(frozen=True)
class Signature:
    """What is known of a symbol's parameters; empty for a symbol that is traced by name only."""

    parameters: tuple[Parameter, ...] = ()

    @property
    def recorded(self) -> tuple[Parameter, ...]:
        """Parameters in the columns of `LIBRARY_EVENTS["arguments"]`, in this order."""
        return tuple(p for p in self.parameters if p.is_value and p.timed)

    @property
    def live(self) -> tuple[Parameter, ...]:
        """Parameters that the structure run reads while the call is being made."""
        return tuple(p for p in self.parameters if not (p.is_value and p.timed))


def _parse(text: str) -> Signature:
    parameters = []
    for position, word in enumerate(text.split()):
        if word != ".":
            name, _, kind = word.partition(":")
            parameters.append(
                Parameter(name.rstrip("?"), position, kind or "int", not name.endswith("?"))
            )
    signature = Signature(tuple(parameters))
    assert len(signature.recorded) <= KEPT, text  # noqa: S101 - the table contradicts the record's width
    return signature


def _expand(pattern: str) -> list[str]:
    """`a{b,c}d` to `abd`, `acd`, for any number of braces."""
    parts = [
        part.split(",") if i % 2 else [part] for i, part in enumerate(re.split(r"[{}]", pattern))
    ]
    return ["".join(choice) for choice in product(*parts)]


SIGNATURES: Mapping[str, Signature] = {
    name: _parse(text)
    for patterns, text in _TABLE.items()
    for pattern in patterns.split()
    for name in _expand(pattern)
}
"""Signature by symbol, without the `_64` variants that `signature_of` derives."""


@cache
def signature_of(symbol: str) -> Signature:
    """The signature of a symbol. The `_64` functions of cuBLAS take 64 bits wherever the others
    take an `int`.
    """
    if symbol in SIGNATURES or not symbol.endswith("_64"):
        return SIGNATURES.get(symbol, Signature())
    narrow = SIGNATURES.get(symbol.removesuffix("_64"), Signature())
    return Signature(
        tuple(replace(p, kind="long") if p.kind == "int" else p for p in narrow.parameters)
    )


_TYPE_OF_LETTER = {
    "S": "CUDA_R_32F",
    "D": "CUDA_R_64F",
    "C": "CUDA_C_32F",
    "Z": "CUDA_C_64F",
    "H": "CUDA_R_16F",
}


def data_type_of(symbol: str) -> str | None:
    """The element type that BLAS naming puts into a symbol: `cublasSgemm_v2` works on
    `CUDA_R_32F`.
    """
    match = re.match(
        r"(?:cublas|cusolverDn)(?:I|S(?=c)|D(?=z))?([SDCZHsdcz])[a-z]|cusparse([SDCZ])(?:bsr|csr)",
        symbol,
    )
    return (
        _TYPE_OF_LETTER[(match[1] or match[2]).upper()]
        if match and not symbol.endswith("gemmEx")
        else None
    )


_LIBRARIES = (
    ("cublasLt", "cuBLASLt"),
    ("cublas", "cuBLAS"),
    ("cudnn", "cuDNN"),
    ("cufft", "cuFFT"),
    ("cusparseLt", "cuSPARSELt"),
    ("cusparse", "cuSPARSE"),
    ("cusolver", "cuSOLVER"),
    ("nccl", "NCCL"),
)


def library_of(symbol: str) -> str:
    """The library that a symbol belongs to, by its prefix, for example `cuBLASLt`."""
    return next((library for prefix, library in _LIBRARIES if symbol.startswith(prefix)), "unknown")


# Copies to and from the device, kernels and searches hide behind these names.
_WORK = re.compile(
    r"cublas[GS]et(Matrix|Vector)|cudnnGetConvolution\w+Algorithm_v7|cudnnSetDropoutDescriptor|ncclGroupEnd"
)
_BOOKKEEPING = re.compile(
    r"(cublas(Lt|Xt)?|cudnn|cufft(Xt)?|cusparse(Lt)?|cusolver(Dn|Sp|Rf|Mg)?|nccl)(Create|Destroy|Get|Set)"
    r"|cublasLt(MatmulDesc|MatrixLayout|MatmulPreference|MatrixTransformDesc)[A-Z]"
    r"|cudnnBackend(Create|Destroy|Finalize|Initialize|Get|Set)"
    r"|cudnn(DropoutGetStatesSize|RestoreDropoutDescriptor|RNN[GS]etClip)"
    r"|cusparse(Csr|Csc|Coo|Bsr|SpMat|SpVec|DnMat|DnVec)(Get|Set)"
    r"|cusparseLt(Init$|\w*Descriptor|Matmul(AlgGet|AlgSet|AlgSelection|Desc|GetWorkspace|PlanDestroy)|\w*Size2?$)"
    r"|cusolverDnX\w*Set|\w+_(bufferSize|bufferSizeExt|createDescr|destroyDescr)$"
    r"|ncclComm(Count|CuDevice|UserRank|GetAsyncError|GetName)|ncclRedOp|ncclDevComm|ncclGroupSimulateEnd"
)


def is_traced(symbol: str) -> bool:
    """Whether calls are worth a span: everything but creating, destroying, getting and setting."""
    return bool(_WORK.match(symbol)) or not _BOOKKEEPING.match(symbol)
