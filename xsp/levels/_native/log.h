/* Records of one size: one append-only writer per thread, read by one collector.
 *
 * A writer is a chain of chunks: its thread fills the last one and publishes the number of finished records; the
 * collector takes finished records and reuses a chunk only once its thread has moved to the next. No lock is taken and
 * nothing is allocated except when a chunk is full or a thread writes for the first time.
 */
#ifndef XSP_LOG_H
#define XSP_LOG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct xsp_chunk;
struct xsp_writer;

struct xsp_log {
  uint32_t record_bytes;
  uint32_t run_offset;      /* of the uint32_t in a record that says in which run it was written */
  pthread_mutex_t memory;   /* guards the five below */
  struct xsp_writer *writers;
  struct xsp_chunk *spare;
  int64_t chunks_allowed, chunks_used, chunks_spare;
  uint32_t runs, collected_run;
  _Atomic uint32_t recording; /* number of the run, 0 while stopped */
  _Atomic int64_t lost;
  pthread_key_t at_thread_exit;
  int has_key;
};

/* Begins a run with room for `record_limit` records, rounded up to whole chunks for each thread; -EBUSY if one is on. */
int xsp_log_open(struct xsp_log *log, int64_t record_limit);
void xsp_log_close(struct xsp_log *log);

/* Room for one record of this thread, NULL where there is none; `mine` is the thread's own writer, NULL at first. What is
 * written there is kept from xsp_log_publish on. */
void *xsp_log_reserve(struct xsp_log *log, struct xsp_writer **mine);
void xsp_log_publish(struct xsp_writer *mine);

/* Number of records ready (out NULL), or up to `room` of them moved to `out`. Call it while recording is stopped. */
int64_t xsp_log_collect(struct xsp_log *log, void *out, int64_t room);

void xsp_log_lose(struct xsp_log *log);
int64_t xsp_log_take_lost(struct xsp_log *log);

/* For the handlers of pthread_atfork. */
void xsp_log_before_fork(struct xsp_log *log);
void xsp_log_after_fork(struct xsp_log *log);

#endif
