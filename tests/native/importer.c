/* What PyTorch is to the libraries: an object with import slots for their functions. */
#include <stddef.h>
#include <stdint.h>

#define API(type, name, parameters) extern type name parameters;
API(int, cublasSgemm_v2, (void *, int, int, int, int, int, void *, void *, int, void *, int, void *, void *, int))
API(int, cublasGemmEx, (void *, int, int, int, int, int, void *, void *, int, int, void *, int, int, void *, void *, int,
                        int, int, int))
API(int, cublasGemmStridedBatchedEx, (void *, int, int, int, int, int, void *, void *, int, int, long long, void *, int,
                                      int, long long, void *, void *, int, int, long long, int, int, int))
API(double, cublasFakeBlend, (double, int, float, double, double, double, double, double, double, double, long))
API(int, cublasFakeMany, (long, long, long, long, long, long, long, long, long, long, long, long, long, long, long, long,
                          long, long, long, long, long, long, long, long, long))
API(int, cublasFakeSleep, (int))
API(int, cublasFakeCall, (void (*)(void)))
API(int, cublasLtMatmul, (void *, void *, void *, void *, void *, void *, void *, void *, void *, void *, void *, void *,
                          void *, void *, size_t, void *))
API(int, cudnnBackendExecute, (void *, void *, void *))

#define P(n) ((void *)(intptr_t)(n))

int sgemm(int m, int n, int k) {
  return cublasSgemm_v2(P(1), 0, 1, m, n, k, P(7), P(8), -9, P(10), 11, P(12), P(13), -14);
}
int gemm_ex(int m, int n, int k) {
  return cublasGemmEx(P(1), 1, 0, m, n, k, P(7), P(8), 2, 10, P(11), 2, 13, P(14), P(15), 2, 17, 68, -1);
}
int gemm_strided(int m, int n, int k, int batch) {
  return cublasGemmStridedBatchedEx(P(1), 1, 0, m, n, k, P(7), P(8), 14, 10, -11LL, P(12), 14, 14, 1LL << 40, P(16),
                                    P(17), 14, 19, 20, batch, 77, -1);
}
double blend(double a, int i) { return cublasFakeBlend(a, i, 1.5f, 2, 3, 4, 5, 6, 7, 8, -3); }
int many(long first) {
  return cublasFakeMany(first, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, -25);
}
int nap(int milliseconds) { return cublasFakeSleep(milliseconds); }
int call(void (*function)(void)) { return cublasFakeCall(function); }
int lt_matmul(void *desc, void *a, void *b, void *d) {
  return cublasLtMatmul(P(1), desc, P(3), P(4), a, P(6), b, P(8), P(9), d, P(11), d, P(13), P(14), 4096, P(16));
}
int execute(void *plan) { return cudnnBackendExecute(P(1), plan, P(3)); }
void sgemm_many_times(int count) {
  for (int i = 0; i < count; i++) sgemm(i, 2, 3);
}
