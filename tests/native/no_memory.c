/* By LD_PRELOAD: the n-th allocation that the native part asks for fails, and all after it if `no_memory_for_good`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

long no_memory_after = -1, no_memory_asked;
int no_memory_for_good;
void *no_memory_begin, *no_memory_end; /* the code whose allocations count */

static int fails(void *caller) {
  if (no_memory_after < 0 || caller < no_memory_begin || caller >= no_memory_end) return 0;
  long number = no_memory_asked++;
  return number == no_memory_after || (no_memory_for_good && number > no_memory_after);
}

void *malloc(size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) {
  return fails(__builtin_return_address(0)) ? NULL : __libc_calloc(count, size);
}
void *realloc(void *old, size_t size) { return fails(__builtin_return_address(0)) ? NULL : __libc_realloc(old, size); }
void *aligned_alloc(size_t alignment, size_t size) {
  return fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
}
char *strdup(const char *text) {
  size_t size = strlen(text) + 1;
  char *copy = fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
  return copy ? memcpy(copy, text, size) : NULL;
}
