/* Recording of library calls: one append-only writer per thread, read by one collector.
 *
 * A call's record is built in its own stack frame and appended when the call returns, so a call in flight when
 * recording stops owns no shared memory. A writer is a chain of chunks: its thread fills the last one and publishes the
 * number of finished records; the collector takes finished records and reuses a chunk only once its thread has moved to
 * the next. No lock is taken and nothing is allocated except when a chunk is full or a thread makes its first call.
 */
#include "interpose.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CHUNK_RECORDS = 1024, READY_CHUNKS = 16 };

struct chunk {
  _Atomic(struct chunk *) next;
  _Atomic uint32_t finished;
  uint32_t taken; /* collector only */
  struct xsp_record records[CHUNK_RECORDS];
};

struct writer {
  struct writer *next;  /* all writers; never removed */
  struct chunk *first;  /* collector's end */
  struct chunk *last;   /* writing thread's end */
  _Atomic int owned;    /* 0: its thread has exited and another may continue it */
};

static pthread_mutex_t memory = PTHREAD_MUTEX_INITIALIZER; /* guards the three below */
static struct writer *writers;
static struct chunk *spare;
static int64_t chunks_allowed, chunks_used, chunks_spare;

static _Atomic uint32_t recording; /* number of the run, 0 while stopped */
static _Atomic uint32_t sequence;
static _Atomic int64_t lost;
static uint32_t runs, collected_run;
static _Atomic xsp_live_callback live_callback;

static pthread_key_t at_thread_exit;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static __thread struct writer *my_writer;
/* Frame of the outermost traced call in progress. Stacks grow down: a call from a frame at or above it means that the
 * outer call was left by longjmp and is over. */
static __thread struct xsp_frame *my_outermost;

struct xsp_stub xsp_stubs[XSP_STUBS];

/* At thread exit. A later destructor that makes a call gets a writer of its own, and this runs again. */
static void release_writer(void *writer) {
  my_writer = NULL;
  atomic_store(&((struct writer *)writer)->owned, 0);
}

static int64_t monotonic_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void count_lost(void) { atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed); }


static void create_key(void) { pthread_key_create(&at_thread_exit, release_writer); }

/* Both need `memory` to be held. */
static void make_spare_chunk(void) {
  struct chunk *chunk = malloc(sizeof *chunk);
  if (!chunk) return;
  memset(chunk, 0, sizeof *chunk); /* touch every page now, not in a timed run */
  atomic_store(&chunk->next, spare);
  spare = chunk;
  chunks_spare++;
}

static struct chunk *take_chunk(void) {
  if (chunks_used >= chunks_allowed) return NULL;
  if (!spare) make_spare_chunk();
  struct chunk *chunk = spare;
  if (!chunk) return NULL;
  spare = atomic_load(&chunk->next);
  chunks_spare--;
  chunks_used++;
  chunk->taken = 0;
  atomic_store(&chunk->next, NULL);
  atomic_store(&chunk->finished, 0);
  return chunk;
}

static struct writer *adopt_or_create_writer(void) {
  for (struct writer *writer = writers; writer; writer = writer->next) {
    int idle = 0;
    if (atomic_compare_exchange_strong(&writer->owned, &idle, 1)) return writer;
  }
  struct chunk *chunk = take_chunk();
  struct writer *writer = chunk ? calloc(1, sizeof *writer) : NULL;
  if (!writer) return NULL;
  writer->first = writer->last = chunk;
  atomic_store(&writer->owned, 1);
  writer->next = writers;
  return writers = writer;
}

static struct writer *new_writer(void) {
  int saved = errno;
  pthread_mutex_lock(&memory);
  my_writer = adopt_or_create_writer();
  pthread_mutex_unlock(&memory);
  if (my_writer) pthread_setspecific(at_thread_exit, my_writer);
  errno = saved;
  return my_writer;
}

static struct chunk *next_chunk(struct writer *writer) {
  int saved = errno;
  pthread_mutex_lock(&memory);
  struct chunk *chunk = take_chunk();
  pthread_mutex_unlock(&memory);
  errno = saved;
  if (!chunk) return NULL;
  struct chunk *full = writer->last;
  writer->last = chunk;
  atomic_store_explicit(&full->next, chunk, memory_order_release);
  return chunk;
}

static void append(const struct xsp_frame *frame, int64_t end_ns) {
  struct writer *writer = my_writer ? my_writer : new_writer();
  struct chunk *chunk = writer ? writer->last : NULL;
  if (chunk && atomic_load_explicit(&chunk->finished, memory_order_relaxed) == CHUNK_RECORDS)
    chunk = next_chunk(writer);
  if (!chunk) {
    count_lost();
    return;
  }
  uint32_t index = atomic_load_explicit(&chunk->finished, memory_order_relaxed);
  struct xsp_record *record = &chunk->records[index];
  record->start_ns = frame->start_ns;
  record->end_ns = end_ns;
  memcpy(record->arguments, frame->kept, sizeof record->arguments);
  record->thread = (uint32_t)pthread_self();
  record->run = frame->run;
  record->sequence = frame->sequence;
  record->stub = (uint32_t)frame->stub;
  atomic_store_explicit(&chunk->finished, index + 1, memory_order_release);
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
  frame->run = atomic_load_explicit(&recording, memory_order_acquire);
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
  if (atomic_load_explicit(&recording, memory_order_acquire) == frame->run)
    append(frame, end_ns);
  else
    count_lost();
}

/* Instead of xsp_calls_leave, for a call that does not return. */
void xsp_calls_abandon(void) {
  my_outermost = NULL;
  count_lost();
}

/* Chunks that hold records nobody has taken yet: what the limit is about. Needs `memory` to be held. */
static int64_t count_waiting_chunks(void) {
  int64_t waiting = 0;
  for (struct writer *writer = writers; writer; writer = writer->next)
    for (struct chunk *chunk = writer->first; chunk; chunk = atomic_load(&chunk->next))
      waiting += atomic_load(&chunk->finished) > chunk->taken;
  return waiting;
}

/* Begins a run. Each record costs 104 bytes; memory for `record_limit` of them, rounded up to whole chunks for each
 * thread, is allocated as it is needed. */
int xsp_calls_open(xsp_live_callback callback, int64_t record_limit) {
  if (atomic_load(&recording)) return -EBUSY;
  pthread_once(&once, create_key);
  pthread_mutex_lock(&memory);
  chunks_allowed = (record_limit + CHUNK_RECORDS - 1) / CHUNK_RECORDS;
  int64_t ready = chunks_allowed < READY_CHUNKS ? chunks_allowed : READY_CHUNKS;
  for (int64_t i = chunks_spare; i < ready; i++) make_spare_chunk();
  chunks_used = count_waiting_chunks();
  if (++runs == 0) ++runs;
  uint32_t run = runs;
  pthread_mutex_unlock(&memory);
  atomic_store(&live_callback, callback);
  atomic_store(&recording, run);
  return 0;
}

void xsp_calls_close(void) { atomic_store(&recording, 0); }

static void before_fork(void) { pthread_mutex_lock(&memory); }

static void after_fork(void) { pthread_mutex_unlock(&memory); }

__attribute__((constructor)) static void follow_forks(void) { pthread_atfork(before_fork, after_fork, after_fork); }

/* Moves finished records of one writer to `out`, or only counts them if it is NULL. */
static int64_t drain(struct writer *writer, struct xsp_record *out, int64_t room) {
  int64_t moved = 0;
  for (struct chunk *chunk = writer->first; chunk;) {
    struct chunk *next = atomic_load_explicit(&chunk->next, memory_order_acquire);
    uint32_t finished = atomic_load_explicit(&chunk->finished, memory_order_acquire);
    int64_t count = finished - chunk->taken;
    if (out) {
      if (count > room - moved) count = room - moved;
      memcpy(out + moved, chunk->records + chunk->taken, (size_t)count * sizeof *out);
      chunk->taken += (uint32_t)count;
      if (next && chunk->taken == CHUNK_RECORDS) {
        writer->first = next;
        atomic_store(&chunk->next, spare);
        spare = chunk;
        chunks_spare++;
      }
    }
    moved += count;
    chunk = next;
  }
  return moved;
}

/* Number of records ready (out NULL), or up to `room` of them moved to `out`. Call it while recording is stopped. */
XSP_EXPORT int64_t xsp_interpose_collect(struct xsp_record *out, int64_t room) {
  int64_t total = 0;
  pthread_mutex_lock(&memory);
  for (struct writer *writer = writers; writer; writer = writer->next)
    total += drain(writer, out ? out + total : NULL, room - total);
  uint32_t before = collected_run;
  if (out) collected_run = runs;
  pthread_mutex_unlock(&memory);
  if (!out) return total;
  /* A call that saw its run still recording, and appended just after that run was collected. */
  int64_t kept = 0;
  for (int64_t i = 0; i < total; i++)
    if (out[i].run > before) out[kept++] = out[i];
  atomic_fetch_add(&lost, total - kept);
  return kept;
}

/* Calls known to be missing since this was last asked. */
XSP_EXPORT int64_t xsp_interpose_take_lost(void) { return atomic_exchange(&lost, 0); }
