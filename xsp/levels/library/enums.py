"""Values of the traced libraries' enumerations, by the libraries' own names.

From the public headers of CUDA 13.0 (`library_types.h`, `cublas_api.h`, `cublasLt.h`, `cufft.h`,
`cusparse.h`, `cusolver_common.h`), cuDNN 9.19 (`cudnn_graph.h`, `cudnn_ops.h`, `cudnn_adv.h`) and
NCCL 2.28 (`nccl.h`).
"""

from __future__ import annotations

from collections.abc import Mapping


def _counted(prefix: str, names: str) -> dict[int, str]:
    return {i: prefix + name for i, name in enumerate(names.split())}


DATA_TYPE = _counted(
    "CUDA_",
    "R_32F R_64F R_16F R_8I C_32F C_64F C_16F C_8I R_8U C_8U R_32I C_32I R_32U C_32U R_16BF C_16BF "
    "R_4I C_4I R_4U C_4U "
    "R_16I C_16I R_16U C_16U R_64I C_64I R_64U C_64U R_8F_E4M3 R_8F_E5M2 R_8F_UE8M0 R_6F_E2M3 "
    "R_6F_E3M2 R_4F_E2M1",
)
"""`cudaDataType_t`"""

COMPUTE_TYPE = {
    64: "CUBLAS_COMPUTE_16F",
    65: "CUBLAS_COMPUTE_16F_PEDANTIC",
    68: "CUBLAS_COMPUTE_32F",
    69: "CUBLAS_COMPUTE_32F_PEDANTIC",
    70: "CUBLAS_COMPUTE_64F",
    71: "CUBLAS_COMPUTE_64F_PEDANTIC",
    72: "CUBLAS_COMPUTE_32I",
    73: "CUBLAS_COMPUTE_32I_PEDANTIC",
    74: "CUBLAS_COMPUTE_32F_FAST_16F",
    75: "CUBLAS_COMPUTE_32F_FAST_16BF",
    77: "CUBLAS_COMPUTE_32F_FAST_TF32",
    78: "CUBLAS_COMPUTE_32F_EMULATED_16BFX9",
    79: "CUBLAS_COMPUTE_64F_EMULATED_FIXEDPOINT",
}
"""`cublasComputeType_t`"""

EPILOGUE = {
    1: "CUBLASLT_EPILOGUE_DEFAULT",
    2: "CUBLASLT_EPILOGUE_RELU",
    4: "CUBLASLT_EPILOGUE_BIAS",
    6: "CUBLASLT_EPILOGUE_RELU_BIAS",
    32: "CUBLASLT_EPILOGUE_GELU",
    36: "CUBLASLT_EPILOGUE_GELU_BIAS",
    130: "CUBLASLT_EPILOGUE_RELU_AUX",
    134: "CUBLASLT_EPILOGUE_RELU_AUX_BIAS",
    136: "CUBLASLT_EPILOGUE_DRELU",
    152: "CUBLASLT_EPILOGUE_DRELU_BGRAD",
    160: "CUBLASLT_EPILOGUE_GELU_AUX",
    164: "CUBLASLT_EPILOGUE_GELU_AUX_BIAS",
    192: "CUBLASLT_EPILOGUE_DGELU",
    208: "CUBLASLT_EPILOGUE_DGELU_BGRAD",
    256: "CUBLASLT_EPILOGUE_BGRADA",
    512: "CUBLASLT_EPILOGUE_BGRADB",
}
"""`cublasLtEpilogue_t`"""

CUDNN_DATA_TYPE = _counted(
    "CUDNN_DATA_",
    "FLOAT DOUBLE HALF INT8 INT32 INT8x4 UINT8 UINT8x4 INT8x32 BFLOAT16 INT64 BOOLEAN FP8_E4M3 "
    "FP8_E5M2 "
    "FAST_FLOAT_FOR_FP8 FP8_E8M0 FP4_E2M1 INT4 UINT4 UINT32 COMPLEX_FP32 COMPLEX_FP64",
)
"""`cudnnDataType_t`"""

ENUMERATIONS: Mapping[str, Mapping[int, str]] = {
    "data_type": DATA_TYPE,
    "compute_type": COMPUTE_TYPE,
    "operation": _counted("CUBLAS_OP_", "N T C CONJG"),
    "fill": _counted("CUBLAS_FILL_MODE_", "LOWER UPPER FULL"),
    "side": _counted("CUBLAS_SIDE_", "LEFT RIGHT"),
    "diagonal": _counted("CUBLAS_DIAG_", "NON_UNIT UNIT"),
    "eigenvectors": _counted("CUSOLVER_EIG_MODE_", "NOVECTOR VECTOR"),
    "sparse_operation": _counted(
        "CUSPARSE_OPERATION_", "NON_TRANSPOSE TRANSPOSE CONJUGATE_TRANSPOSE"
    ),
    "fft_type": {
        0x2A: "CUFFT_R2C",
        0x2C: "CUFFT_C2R",
        0x29: "CUFFT_C2C",
        0x6A: "CUFFT_D2Z",
        0x6C: "CUFFT_Z2D",
        0x69: "CUFFT_Z2Z",
    },
    "fft_direction": {-1: "CUFFT_FORWARD", 1: "CUFFT_INVERSE"},
    "nccl_type": _counted(
        "nccl",
        "Int8 Uint8 Int32 Uint32 Int64 Uint64 Float16 Float32 Float64 Bfloat16 Float8e4m3 "
        "Float8e5m2",
    ),
    "nccl_operation": _counted("nccl", "Sum Prod Max Min Avg"),
    "forward_mode": _counted("CUDNN_FWD_MODE_", "INFERENCE TRAINING"),
    "softmax": _counted("CUDNN_SOFTMAX_", "FAST ACCURATE LOG"),
    "softmax_mode": _counted("CUDNN_SOFTMAX_MODE_", "INSTANCE CHANNEL"),
    "batch_norm": _counted("CUDNN_BATCHNORM_", "PER_ACTIVATION SPATIAL SPATIAL_PERSISTENT"),
}
"""Enumeration by the kind of parameter that holds it (`library_symbols`)."""

RNN_CELL = _counted("CUDNN_", "RNN_RELU RNN_TANH LSTM GRU")
RNN_DIRECTION = _counted("CUDNN_", "UNIDIRECTIONAL BIDIRECTIONAL")
POOLING = _counted(
    "CUDNN_POOLING_",
    "MAX AVERAGE_COUNT_INCLUDE_PADDING AVERAGE_COUNT_EXCLUDE_PADDING MAX_DETERMINISTIC",
)
