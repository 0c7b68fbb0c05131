/* Threads that run operators while recording begins, ends and is collected, with a stand-in for the three functions of
 * libtorch: the native part alone, to be run as it is and under sanitizers. Argument: seconds. Returns 0 if every record
 * is whole, and none is there that was not announced. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int xsp_operators_start(void *add, void *remove, void *name, int64_t record_limit);
void xsp_operators_stop(void);
int64_t xsp_operators_collect(void *out, int64_t room);
int64_t xsp_operators_take_lost(void);
uint32_t xsp_operators_names(void);
const char *xsp_operators_name(uint32_t number);

struct record {
  int64_t start_ns, end_ns;
  uint32_t name, thread, run, unused;
};

/* As at::RecordFunctionCallback begins. */
struct callback {
  void **(*start)(void **context, const void *function);
  void (*end)(const void *function, void *context);
  double sampling_probability;
  _Bool scopes[10];
  _Bool others[22];
};

struct operator_call {
  char name[32];
};

static pthread_rwlock_t registration = PTHREAD_RWLOCK_INITIALIZER;
static struct callback current;
static int is_registered;
static atomic_int over, wrong;

static void check(int good) {
  if (!good) atomic_fetch_add(&wrong, 1);
}

static uint64_t add(struct callback callback) {
  check(callback.scopes[0] && callback.scopes[1] && !callback.scopes[2] && callback.sampling_probability == 1.0);
  pthread_rwlock_wrlock(&registration);
  check(!is_registered);
  current = callback;
  is_registered = 1;
  pthread_rwlock_unlock(&registration);
  return 7;
}

static void take_away(uint64_t handle) {
  check(handle == 7);
  pthread_rwlock_wrlock(&registration);
  is_registered = 0;
  pthread_rwlock_unlock(&registration);
}

static const char *name_of(const void *function) { return ((const struct operator_call *)function)->name; }

/* An operator that runs others inside it. As torch does it, the callbacks that began it end it. */
static void run(unsigned seed, int depth) {
  struct operator_call call;
  snprintf(call.name, sizeof call.name, "aten::op%u", seed % 97);
  pthread_rwlock_rdlock(&registration);
  struct callback mine = current;
  int announced = is_registered;
  pthread_rwlock_unlock(&registration);
  void *context = &call;
  if (announced) check(mine.start(&context, &call) == &context && context == NULL);
  for (int i = 0; depth && i < 3; i++) run(seed * 31 + (unsigned)i, depth - 1);
  if (announced) mine.end(&call, context);
}

static void *work(void *first) {
  for (unsigned i = (unsigned)(intptr_t)first; !atomic_load(&over); i++) run(i, (int)(i % 5));
  return NULL;
}

/* A thread that ends gives its writer back. */
static void *work_a_little(void *first) {
  for (unsigned i = (unsigned)(intptr_t)first, end = i + 40; i < end; i++) run(i, 2);
  return NULL;
}

static int64_t collect(void) {
  int64_t room = xsp_operators_collect(NULL, 0);
  struct record *records = malloc((size_t)(room + 1) * sizeof *records);
  int64_t count = xsp_operators_collect(records, room);
  for (int64_t i = 0; i < count; i++) {
    check(records[i].start_ns > 0 && records[i].end_ns >= records[i].start_ns);
    check(records[i].name < xsp_operators_names() && !strncmp(xsp_operators_name(records[i].name), "aten::op", 8));
  }
  free(records);
  return count;
}

int main(int count, char **arguments) {
  double seconds = count > 1 ? atof(arguments[1]) : 2;
  pthread_t threads[3];
  for (intptr_t i = 0; i < 3; i++) pthread_create(&threads[i], NULL, work, (void *)(i * 7919));
  time_t end = time(NULL) + (time_t)(seconds + 1);
  int64_t total = 0;
  for (int round = 0; time(NULL) < end; round++) {
    check(xsp_operators_start((void *)add, (void *)take_away, (void *)name_of, round % 3 ? 1 << 20 : 2000) == 0);
    check(xsp_operators_start((void *)add, (void *)take_away, (void *)name_of, 1) < 0);
    pthread_t brief;
    pthread_create(&brief, NULL, work_a_little, (void *)(intptr_t)round);
    struct timespec pause = {0, 2000000};
    nanosleep(&pause, NULL);
    pthread_join(brief, NULL);
    xsp_operators_stop();
    xsp_operators_stop();
    total += collect();
    check(xsp_operators_take_lost() >= 0);
  }
  atomic_store(&over, 1);
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  printf("%lld records, %u names, %d wrong\n", (long long)total, xsp_operators_names(), atomic_load(&wrong));
  return atomic_load(&wrong) != 0 || !total || xsp_operators_names() > 97;
}
