/* What a tool that interposes by LD_PRELOAD puts before a library: it counts the calls and passes them on. */
#include <dlfcn.h>

int preloaded_calls;

typedef int (*gemm_fn)(void *, int, int, int, int, int, void *, void *, int, void *, int, void *, void *, int);

int cublasSgemm_v2(void *handle, int ta, int tb, int m, int n, int k, void *alpha, void *a, int lda, void *b, int ldb,
                   void *beta, void *c, int ldc) {
  static gemm_fn next;
  if (!next) next = (gemm_fn)dlsym(RTLD_NEXT, "cublasSgemm_v2");
  if (!next) next = (gemm_fn)dlsym(dlopen("libcublas.so", RTLD_LAZY | RTLD_NOLOAD), "cublasSgemm_v2");
  preloaded_calls++;
  return next(handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}
