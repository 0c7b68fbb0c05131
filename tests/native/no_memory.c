/* By LD_PRELOAD: the n-th allocation that some code asks for fails, and all after it if `no_memory_for_good`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

long no_memory_after = -1, no_memory_asked;
int no_memory_for_good;
void *no_memory_begin, *no_memory_end; /* the code whose allocations count */
size_t no_memory_least;                /* and their least size */

static int fails(void *caller, size_t size) {
  if (no_memory_after < 0 || caller < no_memory_begin || caller >= no_memory_end || size < no_memory_least) return 0;
  long number = no_memory_asked++;
  return number == no_memory_after || (no_memory_for_good && number > no_memory_after);
}

void *malloc(size_t size) { return fails(__builtin_return_address(0), size) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) {
  return fails(__builtin_return_address(0), count * size) ? NULL : __libc_calloc(count, size);
}
void *realloc(void *old, size_t size) {
  return fails(__builtin_return_address(0), size) ? NULL : __libc_realloc(old, size);
}
void *aligned_alloc(size_t alignment, size_t size) {
  return fails(__builtin_return_address(0), size) ? NULL : __libc_memalign(alignment, size);
}
int posix_memalign(void **result, size_t alignment, size_t size) {
  *result = fails(__builtin_return_address(0), size) ? NULL : __libc_memalign(alignment, size);
  return *result ? 0 : ENOMEM;
}
char *strdup(const char *text) {
  size_t size = strlen(text) + 1;
  char *copy = fails(__builtin_return_address(0), size) ? NULL : __libc_malloc(size);
  return copy ? memcpy(copy, text, size) : NULL;
}
