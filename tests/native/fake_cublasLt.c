/* A cuBLASLt whose descriptors are plain structures; attribute numbers are those of cublasLt.h of CUDA 13.0. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct { uint32_t type; int32_t order; uint64_t rows, cols; int64_t ld; int32_t batch; } layout;
typedef struct { int32_t compute, scale, transa, transb; uint32_t epilogue; } matmul;

int64_t fake_lt_calls;
layout fake_a = {2, 0, 64, 128, 64, 3}, fake_b = {2, 0, 64, 32, 64, 3}, fake_d = {14, 0, 128, 32, 128, 3};
matmul fake_desc = {77, 0, 1, 0, 4};

static int give(void *out, size_t room, size_t *written, const void *value, size_t size) {
  if (room != size) return 7; /* CUBLAS_STATUS_INVALID_VALUE, as the real one for a wrong size */
  memcpy(out, value, size);
  if (written) *written = size;
  return 0;
}

int cublasLtMatrixLayoutGetAttribute(void *descriptor, int attribute, void *out, size_t room, size_t *written) {
  layout *l = descriptor;
  if (!l) return 7;
  switch (attribute) {
    case 0: return give(out, room, written, &l->type, 4);
    case 1: return give(out, room, written, &l->order, 4);
    case 2: return give(out, room, written, &l->rows, 8);
    case 3: return give(out, room, written, &l->cols, 8);
    case 4: return give(out, room, written, &l->ld, 8);
    case 5: return give(out, room, written, &l->batch, 4);
    default: return 7;
  }
}

int cublasLtMatmulDescGetAttribute(void *descriptor, int attribute, void *out, size_t room, size_t *written) {
  matmul *d = descriptor;
  switch (attribute) {
    case 0: return give(out, room, written, &d->compute, 4);
    case 1: return give(out, room, written, &d->scale, 4);
    case 3: return give(out, room, written, &d->transa, 4);
    case 4: return give(out, room, written, &d->transb, 4);
    case 7: return give(out, room, written, &d->epilogue, 4);
    default: return 7;
  }
}

int cublasLtMatmul(void *handle, void *desc, const void *alpha, const void *a, void *adesc, const void *b, void *bdesc,
                   const void *beta, const void *c, void *cdesc, void *d, void *ddesc, const void *algorithm,
                   void *workspace, size_t workspace_bytes, void *stream) {
  (void)handle, (void)desc, (void)alpha, (void)a, (void)adesc, (void)b, (void)bdesc, (void)beta, (void)c, (void)cdesc;
  (void)d, (void)ddesc, (void)algorithm, (void)workspace, (void)stream;
  fake_lt_calls++;
  return (int)workspace_bytes;
}
