/* See log.h. */
#include "log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_RECORDS = 1024, READY_CHUNKS = 16 };

struct xsp_chunk {
  _Atomic(struct xsp_chunk *) next;
  _Atomic uint32_t finished;
  uint32_t taken; /* collector only */
  _Alignas(8) char records[];
};

struct xsp_writer {
  struct xsp_writer *next;   /* all writers; never removed */
  struct xsp_writer **mine;  /* the owning thread's own pointer to it */
  struct xsp_chunk *first;   /* collector's end */
  struct xsp_chunk *last;    /* writing thread's end */
  _Atomic int owned;         /* 0: its thread has exited and another may continue it */
};

/* At thread exit. A later destructor that writes gets a writer of its own, and this runs again. */
static void release_writer(void *exiting) {
  struct xsp_writer *writer = exiting;
  *writer->mine = NULL;
  atomic_store(&writer->owned, 0);
}

/* All from here to adopt_or_create_writer need `memory` to be held. */
static void make_spare_chunk(struct xsp_log *log) {
  size_t bytes = sizeof(struct xsp_chunk) + (size_t)CHUNK_RECORDS * log->record_bytes;
  struct xsp_chunk *chunk = malloc(bytes);
  if (!chunk) return;
  memset(chunk, 0, bytes); /* touch every page now, not in a timed run */
  atomic_store(&chunk->next, log->spare);
  log->spare = chunk;
  log->chunks_spare++;
}

static struct xsp_chunk *take_chunk(struct xsp_log *log) {
  if (log->chunks_used >= log->chunks_allowed) return NULL;
  if (!log->spare) make_spare_chunk(log);
  struct xsp_chunk *chunk = log->spare;
  if (!chunk) return NULL;
  log->spare = atomic_load(&chunk->next);
  log->chunks_spare--;
  log->chunks_used++;
  chunk->taken = 0;
  atomic_store(&chunk->next, NULL);
  atomic_store(&chunk->finished, 0);
  return chunk;
}

static struct xsp_writer *adopt_or_create_writer(struct xsp_log *log) {
  for (struct xsp_writer *writer = log->writers; writer; writer = writer->next) {
    int idle = 0;
    if (atomic_compare_exchange_strong(&writer->owned, &idle, 1)) return writer;
  }
  struct xsp_chunk *chunk = take_chunk(log);
  struct xsp_writer *writer = chunk ? calloc(1, sizeof *writer) : NULL;
  if (!writer) return NULL;
  writer->first = writer->last = chunk;
  atomic_store(&writer->owned, 1);
  writer->next = log->writers;
  return log->writers = writer;
}

static struct xsp_writer *new_writer(struct xsp_log *log, struct xsp_writer **mine) {
  int saved = errno;
  pthread_mutex_lock(&log->memory);
  struct xsp_writer *writer = adopt_or_create_writer(log);
  pthread_mutex_unlock(&log->memory);
  if (writer) {
    writer->mine = mine;
    pthread_setspecific(log->at_thread_exit, writer);
  }
  errno = saved;
  return *mine = writer;
}

static struct xsp_chunk *next_chunk(struct xsp_log *log, struct xsp_writer *writer) {
  int saved = errno;
  pthread_mutex_lock(&log->memory);
  struct xsp_chunk *chunk = take_chunk(log);
  pthread_mutex_unlock(&log->memory);
  errno = saved;
  if (!chunk) return NULL;
  struct xsp_chunk *full = writer->last;
  writer->last = chunk;
  atomic_store_explicit(&full->next, chunk, memory_order_release);
  return chunk;
}

void *xsp_log_reserve(struct xsp_log *log, struct xsp_writer **mine) {
  struct xsp_writer *writer = *mine ? *mine : new_writer(log, mine);
  struct xsp_chunk *chunk = writer ? writer->last : NULL;
  if (chunk && atomic_load_explicit(&chunk->finished, memory_order_relaxed) == CHUNK_RECORDS)
    chunk = next_chunk(log, writer);
  if (!chunk) {
    xsp_log_lose(log);
    return NULL;
  }
  uint32_t index = atomic_load_explicit(&chunk->finished, memory_order_relaxed);
  return chunk->records + (size_t)index * log->record_bytes;
}

void xsp_log_publish(struct xsp_writer *mine) {
  struct xsp_chunk *chunk = mine->last;
  uint32_t index = atomic_load_explicit(&chunk->finished, memory_order_relaxed);
  atomic_store_explicit(&chunk->finished, index + 1, memory_order_release);
}

/* Chunks that hold records nobody has taken yet: what the limit is about. Needs `memory` to be held. */
static int64_t count_waiting_chunks(struct xsp_log *log) {
  int64_t waiting = 0;
  for (struct xsp_writer *writer = log->writers; writer; writer = writer->next)
    for (struct xsp_chunk *chunk = writer->first; chunk; chunk = atomic_load(&chunk->next))
      waiting += atomic_load(&chunk->finished) > chunk->taken;
  return waiting;
}

int xsp_log_open(struct xsp_log *log, int64_t record_limit) {
  if (atomic_load(&log->recording)) return -EBUSY;
  pthread_mutex_lock(&log->memory);
  if (!log->has_key) log->has_key = !pthread_key_create(&log->at_thread_exit, release_writer);
  log->chunks_allowed = (record_limit + CHUNK_RECORDS - 1) / CHUNK_RECORDS;
  int64_t ready = log->chunks_allowed < READY_CHUNKS ? log->chunks_allowed : READY_CHUNKS;
  for (int64_t i = log->chunks_spare; i < ready; i++) make_spare_chunk(log);
  log->chunks_used = count_waiting_chunks(log);
  if (++log->runs == 0) ++log->runs;
  uint32_t run = log->runs;
  pthread_mutex_unlock(&log->memory);
  atomic_store(&log->recording, run);
  return 0;
}

void xsp_log_close(struct xsp_log *log) { atomic_store(&log->recording, 0); }

/* Moves finished records of one writer to `out`, or only counts them if it is NULL. */
static int64_t drain(struct xsp_log *log, struct xsp_writer *writer, char *out, int64_t room) {
  int64_t moved = 0;
  size_t size = log->record_bytes;
  for (struct xsp_chunk *chunk = writer->first; chunk;) {
    struct xsp_chunk *next = atomic_load_explicit(&chunk->next, memory_order_acquire);
    uint32_t finished = atomic_load_explicit(&chunk->finished, memory_order_acquire);
    int64_t count = finished - chunk->taken;
    if (out) {
      if (count > room - moved) count = room - moved;
      memcpy(out + (size_t)moved * size, chunk->records + (size_t)chunk->taken * size, (size_t)count * size);
      chunk->taken += (uint32_t)count;
      if (next && chunk->taken == CHUNK_RECORDS) {
        writer->first = next;
        atomic_store(&chunk->next, log->spare);
        log->spare = chunk;
        log->chunks_spare++;
      }
    }
    moved += count;
    chunk = next;
  }
  return moved;
}

static uint32_t run_of(const struct xsp_log *log, const char *record) {
  uint32_t run;
  memcpy(&run, record + log->run_offset, sizeof run);
  return run;
}

int64_t xsp_log_collect(struct xsp_log *log, void *into, int64_t room) {
  char *out = into;
  size_t size = log->record_bytes;
  int64_t total = 0;
  pthread_mutex_lock(&log->memory);
  for (struct xsp_writer *writer = log->writers; writer; writer = writer->next)
    total += drain(log, writer, out ? out + (size_t)total * size : NULL, room - total);
  uint32_t before = log->collected_run;
  if (out) log->collected_run = log->runs;
  pthread_mutex_unlock(&log->memory);
  if (!out) return total;
  /* One that saw its run still recording, and was written just after that run was collected. */
  int64_t kept = 0;
  for (int64_t i = 0; i < total; i++) {
    if (run_of(log, out + (size_t)i * size) <= before) continue;
    if (kept < i) memcpy(out + (size_t)kept * size, out + (size_t)i * size, size);
    kept++;
  }
  atomic_fetch_add(&log->lost, total - kept);
  return kept;
}

void xsp_log_lose(struct xsp_log *log) { atomic_fetch_add_explicit(&log->lost, 1, memory_order_relaxed); }

int64_t xsp_log_take_lost(struct xsp_log *log) { return atomic_exchange(&log->lost, 0); }

void xsp_log_before_fork(struct xsp_log *log) { pthread_mutex_lock(&log->memory); }

void xsp_log_after_fork(struct xsp_log *log) { pthread_mutex_unlock(&log->memory); }
