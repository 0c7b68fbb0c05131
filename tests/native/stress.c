/* Threads that load, call and unload importers while slots are scanned, patched and restored: the native part alone, to
 * be run as it is and under sanitizers. Arguments: seconds, an importer that stays loaded, importers that come and go.
 * Returns 0 if every call gave its result and every slot is as it was. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int xsp_interpose_scan(void);
int xsp_interpose_start(void *callback, int64_t record_limit);
int xsp_interpose_stop(void);
int xsp_interpose_patched(void);
int xsp_interpose_slots(void);
int xsp_interpose_refused(void);
int xsp_interpose_stubs(void);
void xsp_interpose_describe(int stub, int traced, int live, int kept, const uint8_t *positions, const uint8_t *wide);
int64_t xsp_interpose_collect(void *records, int64_t room);
int64_t xsp_interpose_take_lost(void);

enum { RECORD_BYTES = 104 };

typedef int (*gemm_fn)(int, int, int);

static atomic_int over, wrong, loads, calls;
static int importer_count;
static char **importers;

static void check(int good) {
  if (!good) atomic_fetch_add(&wrong, 1);
}

static void *load_and_unload(void *first) {
  for (int i = (int)(intptr_t)first; !atomic_load(&over); i++) {
    void *library = dlopen(importers[i % importer_count], i & 1 ? RTLD_NOW : RTLD_LAZY);
    gemm_fn gemm = library ? (gemm_fn)dlsym(library, "sgemm") : NULL;
    check(gemm && gemm(2, 3, 4) == -15);
    if (library) dlclose(library);
    atomic_fetch_add(&loads, 1);
  }
  return NULL;
}

static void *call(void *function) {
  while (!atomic_load(&over)) {
    check(((gemm_fn)function)(2, 3, 4) == -15);
    atomic_fetch_add(&calls, 1);
  }
  return NULL;
}

static void *ask(void *unused) {
  while (!atomic_load(&over)) {
    check(xsp_interpose_patched() >= 0 && xsp_interpose_slots() >= 0 && xsp_interpose_refused() >= 0);
    xsp_interpose_scan();
    struct timespec pause = {0, 200000};
    nanosleep(&pause, NULL);
  }
  return unused;
}

static void scan_and_describe(void) {
  static int known;
  const uint8_t positions[] = {3, 4, 5}, wide[] = {0, 0, 0};
  check(xsp_interpose_scan() >= 0);
  for (int stubs = xsp_interpose_stubs(); known < stubs; known++) xsp_interpose_describe(known, 1, 0, 3, positions, wide);
}

static int64_t record_once(void) {
  scan_and_describe();
  check(xsp_interpose_start(NULL, 1 << 16) >= 0);
  struct timespec pause = {0, 100000};
  nanosleep(&pause, NULL);
  check(xsp_interpose_stop() == 0);
  scan_and_describe();
  int64_t room = xsp_interpose_collect(NULL, 0);
  void *records = malloc((size_t)room * RECORD_BYTES + 1);
  int64_t taken = xsp_interpose_collect(records, room);
  free(records);
  return taken;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int main(int count, char **arguments) {
  if (count < 4) return 2;
  double end = now() + atof(arguments[1]);
  importers = arguments + 3;
  importer_count = count - 3;
  void *staying = dlopen(arguments[2], RTLD_LAZY);
  void *gemm = staying ? dlsym(staying, "sgemm") : NULL;
  if (!gemm) {
    fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  pthread_t threads[4];
  pthread_create(&threads[0], NULL, load_and_unload, (void *)0);
  pthread_create(&threads[1], NULL, load_and_unload, (void *)1);
  pthread_create(&threads[2], NULL, call, gemm);
  pthread_create(&threads[3], NULL, ask, NULL);
  long rounds = 0;
  int64_t records = 0;
  while (now() < end) {
    records += record_once();
    rounds++;
  }
  atomic_store(&over, 1);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  check(xsp_interpose_patched() == 0);
  printf("rounds=%ld loads=%d calls=%d records=%ld lost=%ld wrong=%d\n", rounds, loads, calls, (long)records,
         (long)xsp_interpose_take_lost(), wrong);
  return wrong != 0 || rounds == 0;
}
