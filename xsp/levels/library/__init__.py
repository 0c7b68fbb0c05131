"""The LIBRARY level: calls into cuBLAS, cuDNN, NCCL and their kin, intercepted at import slots."""
