/* A cuBLAS that notes the arguments it was given. The names and signatures are those of cublas_api.h, except
 * cublasFakeBlend, which stands for functions that take and return floating-point values. */
#include <stdint.h>
#include <string.h>
#include <unistd.h>

int64_t fake_arguments[32];
int64_t fake_calls;
int cublasLtMatmul(void *, void *, const void *, const void *, void *, const void *, void *, const void *, const void *,
                   void *, void *, void *, const void *, void *, size_t, void *);

static int note(const int64_t *values, int count) {
  memcpy(fake_arguments, values, (size_t)count * sizeof *values);
  __atomic_fetch_add(&fake_calls, 1, __ATOMIC_RELAXED);
  return -15;
}

int cublasSgemm_v2(void *handle, int transa, int transb, int m, int n, int k, const float *alpha, const float *A,
                   int lda, const float *B, int ldb, const float *beta, float *C, int ldc) {
  int64_t values[] = {(int64_t)handle, transa, transb, m, n, k, (int64_t)alpha, (int64_t)A, lda, (int64_t)B, ldb,
                      (int64_t)beta, (int64_t)C, ldc};
  return note(values, 14);
}

/* As the real one does on recent GPUs, this goes to cuBLASLt. */
int cublasGemmEx(void *handle, int transa, int transb, int m, int n, int k, const void *alpha, const void *A, int Atype,
                 int lda, const void *B, int Btype, int ldb, const void *beta, void *C, int Ctype, int ldc, int compute,
                 int algorithm) {
  (void)transa, (void)transb, (void)m, (void)n, (void)k, (void)Atype, (void)lda, (void)Btype, (void)ldb, (void)Ctype;
  (void)ldc, (void)compute, (void)algorithm;
  return cublasLtMatmul(handle, 0, alpha, A, 0, B, 0, beta, C, 0, C, 0, 0, 0, 11, 0);
}

int cublasGemmStridedBatchedEx(void *handle, int transa, int transb, int m, int n, int k, const void *alpha,
                               const void *A, int Atype, int lda, long long sA, const void *B, int Btype, int ldb,
                               long long sB, const void *beta, void *C, int Ctype, int ldc, long long sC, int batch,
                               int compute, int algorithm) {
  int64_t values[] = {(int64_t)handle, transa, transb, m, n, k, (int64_t)alpha, (int64_t)A, Atype, lda, sA, (int64_t)B,
                      Btype, ldb, sB, (int64_t)beta, (int64_t)C, Ctype, ldc, sC, batch, compute, algorithm};
  return note(values, 23);
}

double cublasFakeBlend(double a, int i, float b, double c, double d, double e, double f, double g, double h, double on_stack,
                       long j) {
  return a + 2 * b + 3 * c + 4 * d + 5 * e + 6 * f + 7 * g + 8 * h + 9 * on_stack + i * j;
}

int cublasFakeMany(long a, long b, long c, long d, long e, long f, long g, long h, long i, long j, long k, long l, long m,
                   long n, long o, long p, long q, long r, long s, long t, long u, long v, long w, long x, long y) {
  int64_t values[] = {a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x, y};
  return note(values, 25);
}

int cublasFakeSleep(int milliseconds) { return usleep(1000 * (useconds_t)milliseconds); }

/* Takes a callback, so that a call can be left by an exception. */
int cublasFakeCall(void (*function)(void)) {
  function();
  return 0;
}
