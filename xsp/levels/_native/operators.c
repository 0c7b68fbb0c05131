/* Recording of PyTorch's operators and backward nodes, through the callbacks that its own profiler uses
 * (at::RecordFunction), without its headers.
 *
 * libtorch_cpu exports three functions that are enough: one registers a pair of callbacks for every thread, one takes
 * them away, one gives an operator's name. What a callback is given is used as an address only. A call is recorded when
 * it ends; those in progress are on a stack of their thread.
 */
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "log.h"
#include "native.h"

enum {
  DEEPEST = 128,     /* operators open at once on a thread */
  SLOTS = 1 << 14,   /* of the hash table of names; a power of two */
  MOST_NAMES = SLOTS / 2,
};

/* at::RecordScope: operators, and nodes that autograd's engine runs. */
enum { OPERATOR = 0, BACKWARD = 1, SCOPES = 10 };

/* at::RecordFunctionCallback, which its functions take by value; what follows in later releases is false as 0 is. */
struct callback {
  void **(*start)(void **context, const void *function);
  void (*end)(const void *function, void *context);
  double sampling_probability;
  _Bool scopes[SCOPES];
  _Bool others[22];
};

typedef uint64_t (*add_callback)(struct callback);
typedef void (*remove_callback)(uint64_t handle);
typedef const char *(*name_of)(const void *function);

/* One call. numpy reads it by the dtype in op/calls.py. */
struct record {
  int64_t start_ns, end_ns;
  uint32_t name, thread, run, unused;
};

struct name {
  uint32_t number;
  char text[];
};

struct call {
  const void *function;
  int64_t start_ns;
  uint32_t name, run;
};

static struct xsp_log calls = {
    .record_bytes = sizeof(struct record),
    .run_offset = offsetof(struct record, run),
    .memory = PTHREAD_MUTEX_INITIALIZER,
};

static _Atomic(struct name *) table[SLOTS];
static struct name *names[MOST_NAMES];
static _Atomic uint32_t names_used;
static pthread_mutex_t naming = PTHREAD_MUTEX_INITIALIZER;

static _Atomic(name_of) name_of_function;
static remove_callback remove_function;
static uint64_t handle;
static int registered;

static __thread struct xsp_writer *my_writer;
static __thread struct call open_calls[DEEPEST];
static __thread uint32_t open_count;

static int64_t monotonic_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* FNV-1a */
static uint32_t hash(const char *text) {
  uint32_t value = 2166136261u;
  for (; *text; text++) value = (value ^ (unsigned char)*text) * 16777619u;
  return value;
}

/* A new name at the end of the list; NULL where there is no room. Needs `naming` to be held. */
static struct name *add_name(const char *text) {
  uint32_t number = atomic_load(&names_used);
  if (number == MOST_NAMES) return NULL;
  size_t length = strlen(text) + 1;
  struct name *name = malloc(sizeof *name + length);
  if (!name) return NULL;
  name->number = number;
  memcpy(name->text, text, length);
  names[number] = name;
  atomic_store(&names_used, number + 1);
  return name;
}

/* The number of a name, MOST_NAMES where there is no room for it. */
static uint32_t number_of(const char *text) {
  uint32_t place = hash(text) & (SLOTS - 1);
  struct name *found;
  while ((found = atomic_load_explicit(&table[place], memory_order_acquire))) {
    if (!strcmp(found->text, text)) return found->number;
    place = (place + 1) & (SLOTS - 1);
  }
  pthread_mutex_lock(&naming);
  /* Another thread may have added some here meanwhile. */
  while ((found = atomic_load(&table[place])) && strcmp(found->text, text)) place = (place + 1) & (SLOTS - 1);
  if (!found && (found = add_name(text))) atomic_store_explicit(&table[place], found, memory_order_release);
  pthread_mutex_unlock(&naming);
  return found ? found->number : MOST_NAMES;
}

/* torch returns a unique_ptr from its callbacks: the caller's room for it comes first, and is returned. */
static void **begin(void **context, const void *function) {
  *context = NULL;
  uint32_t run = atomic_load_explicit(&calls.recording, memory_order_acquire);
  if (!run) return context;
  if (open_count == DEEPEST) {
    xsp_log_lose(&calls);
    return context;
  }
  struct call *call = &open_calls[open_count++];
  name_of name = atomic_load_explicit(&name_of_function, memory_order_relaxed);
  call->function = function;
  call->name = number_of(name(function));
  call->run = run;
  call->start_ns = monotonic_ns();
  return context;
}

/* The call that ends is the last that began, unless some of this thread ended on another one or had no room. */
static const struct call *take(const void *function) {
  for (uint32_t place = open_count; place > 0; place--) {
    if (open_calls[place - 1].function != function) continue;
    for (uint32_t left = place; left < open_count; left++) xsp_log_lose(&calls);
    open_count = place - 1;
    return &open_calls[open_count];
  }
  return NULL;
}

static void end(const void *function, void *context) {
  (void)context;
  int64_t end_ns = monotonic_ns();
  const struct call *call = take(function);
  if (!call || call->run != atomic_load_explicit(&calls.recording, memory_order_acquire)) return;
  struct record *record = call->name < MOST_NAMES ? xsp_log_reserve(&calls, &my_writer) : NULL;
  if (!record) {
    if (call->name == MOST_NAMES) xsp_log_lose(&calls);
    return;
  }
  record->start_ns = call->start_ns;
  record->end_ns = end_ns;
  record->name = call->name;
  record->thread = (uint32_t)pthread_self();
  record->run = call->run;
  xsp_log_publish(my_writer);
}

/* Begins a run. `add`, `remove` and `name` are at::addGlobalCallback, at::removeCallback and at::RecordFunction::name. */
XSP_EXPORT int xsp_operators_start(void *add, void *remove, void *name, int64_t record_limit) {
  int result = xsp_log_open(&calls, record_limit);
  if (result) return result;
  atomic_store(&name_of_function, (name_of)name);
  remove_function = (remove_callback)remove;
  struct callback callback = {.start = begin, .end = end, .sampling_probability = 1.0};
  callback.scopes[OPERATOR] = callback.scopes[BACKWARD] = 1;
  handle = ((add_callback)add)(callback);
  registered = 1;
  return 0;
}

/* Harmless when stopped. Operators that are in progress end without a record. */
XSP_EXPORT void xsp_operators_stop(void) {
  xsp_log_close(&calls);
  if (!registered) return;
  registered = 0;
  remove_function(handle);
}

/* Number of records ready (out NULL), or up to `room` of them moved to `out`. Call it while stopped. */
XSP_EXPORT int64_t xsp_operators_collect(void *out, int64_t room) { return xsp_log_collect(&calls, out, room); }

XSP_EXPORT int64_t xsp_operators_take_lost(void) { return xsp_log_take_lost(&calls); }

XSP_EXPORT uint32_t xsp_operators_names(void) { return atomic_load(&names_used); }

XSP_EXPORT const char *xsp_operators_name(uint32_t number) { return names[number]->text; }

static void before_fork(void) {
  pthread_mutex_lock(&naming);
  xsp_log_before_fork(&calls);
}

static void after_fork(void) {
  xsp_log_after_fork(&calls);
  pthread_mutex_unlock(&naming);
}

__attribute__((constructor)) static void follow_forks(void) { pthread_atfork(before_fork, after_fork, after_fork); }
