/* Recording of library calls.
 *
 * A call's record is built in its own stack frame and appended to the log (log.h) when the call returns, so a call in
 * flight when recording stops owns no shared memory.
 */
#include "interpose.h"

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

#include "log.h"

static struct xsp_log calls = {
    .record_bytes = sizeof(struct xsp_record),
    .run_offset = offsetof(struct xsp_record, run),
    .memory = PTHREAD_MUTEX_INITIALIZER,
};

static _Atomic uint32_t sequence;
static _Atomic xsp_live_callback live_callback;

static __thread struct xsp_writer *my_writer;
/* Frame of the outermost traced call in progress. Stacks grow down: a call from a frame at or above it means that the
 * outer call was left by longjmp and is over. */
static __thread struct xsp_frame *my_outermost;

struct xsp_stub xsp_stubs[XSP_STUBS];

static int64_t monotonic_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void count_lost(void) { xsp_log_lose(&calls); }

static void append(const struct xsp_frame *frame, int64_t end_ns) {
  struct xsp_record *record = xsp_log_reserve(&calls, &my_writer);
  if (!record) return;
  record->start_ns = frame->start_ns;
  record->end_ns = end_ns;
  memcpy(record->arguments, frame->kept, sizeof record->arguments);
  record->thread = (uint32_t)pthread_self();
  record->run = frame->run;
  record->sequence = frame->sequence;
  record->stub = (uint32_t)frame->stub;
  xsp_log_publish(my_writer);
}

static void keep_arguments(const struct xsp_stub *stub, struct xsp_frame *frame) {
  memset(frame->kept, 0, sizeof frame->kept);
  for (int i = 0; i < stub->kept; i++) {
    unsigned position = stub->position[i];
    uint64_t value = position < 6 ? frame->integer[position] : frame->stack[position - 6];
    frame->kept[i] = stub->wide[i] ? (int64_t)value : (int32_t)value;
  }
}

/* Before a call. Returns 1 if it is to be recorded, and then xsp_calls_leave follows. */
int xsp_calls_enter(struct xsp_frame *frame) {
  const struct xsp_stub *stub = &xsp_stubs[frame->stub];
  frame->real = __atomic_load_n(&stub->real, __ATOMIC_ACQUIRE);
  frame->run = atomic_load_explicit(&calls.recording, memory_order_acquire);
  if (!frame->run) return 0;
  if (my_outermost) {
    if (frame < my_outermost) return 0;
    count_lost();
  }
  my_outermost = frame;
  keep_arguments(stub, frame);
  frame->sequence = 0;
  xsp_live_callback callback = atomic_load_explicit(&live_callback, memory_order_relaxed);
  if (callback) {
    frame->sequence = atomic_fetch_add(&sequence, 1) + 1;
    if (stub->live) callback((uint32_t)frame->stub, frame->sequence, frame->integer, frame->stack);
  }
  frame->start_ns = monotonic_ns();
  return 1;
}

/* After a call. One that outlived its run is counted as lost: its run has been collected, or is about to be. */
void xsp_calls_leave(struct xsp_frame *frame) {
  int64_t end_ns = monotonic_ns();
  my_outermost = NULL;
  if (atomic_load_explicit(&calls.recording, memory_order_acquire) == frame->run)
    append(frame, end_ns);
  else
    count_lost();
}

/* Instead of xsp_calls_leave, for a call that does not return. */
void xsp_calls_abandon(void) {
  my_outermost = NULL;
  count_lost();
}

/* Begins a run. Each record costs 104 bytes. */
int xsp_calls_open(xsp_live_callback callback, int64_t record_limit) {
  int result = xsp_log_open(&calls, record_limit);
  if (!result) atomic_store(&live_callback, callback);
  return result;
}

void xsp_calls_close(void) { xsp_log_close(&calls); }

static void before_fork(void) { xsp_log_before_fork(&calls); }

static void after_fork(void) { xsp_log_after_fork(&calls); }

__attribute__((constructor)) static void follow_forks(void) { pthread_atfork(before_fork, after_fork, after_fork); }

/* Number of records ready (out NULL), or up to `room` of them moved to `out`. Call it while recording is stopped. */
XSP_EXPORT int64_t xsp_interpose_collect(struct xsp_record *out, int64_t room) {
  return xsp_log_collect(&calls, out, room);
}

/* Calls known to be missing since this was last asked. */
XSP_EXPORT int64_t xsp_interpose_take_lost(void) { return xsp_log_take_lost(&calls); }
