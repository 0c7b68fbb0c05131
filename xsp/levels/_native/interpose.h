/* Interposition of library calls by rewriting import slots (ELF, x86-64, System V ABI).
 *
 * objects.c finds the slots, slots.c writes them, stubs.c is what they point to while recording, calls.c keeps the
 * records.
 * A stub is bound for ever to one (name, real function): whoever still holds its address after recording stopped,
 * a thread in the middle of a call or a program that stored the pointer, simply reaches the real function.
 */
#ifndef XSP_INTERPOSE_H
#define XSP_INTERPOSE_H

#include <stdatomic.h>
#include <stdint.h>

#include "native.h"

enum {
  XSP_STUBS = 2048,     /* distinct (name, real function) pairs; PyTorch 2.11 imports 560 names */
  XSP_STUB_BYTES = 16,  /* distance between two stubs, fixed by the assembly in stubs.c */
  XSP_KEPT = 8,         /* arguments kept per call: the width of LIBRARY_EVENTS.arguments */
};

/* One traced symbol. Written while recording is off, read by every call. */
struct xsp_stub {
  void *real;
  char *name;
  uint8_t traced;             /* 0: slots of this symbol are left alone */
  uint8_t live;               /* call back before the call, while the arguments are alive */
  uint8_t kept;               /* how many of the following are used */
  uint8_t position[XSP_KEPT]; /* among the INTEGER-class arguments, from 0 */
  uint8_t wide[XSP_KEPT];     /* 1: 64 bits; 0: a 32-bit int, whose upper half is undefined in its slot */
};

/* What xsp_stub_common (stubs.c) puts on the stack; the offsets are repeated there and checked in calls.c. */
struct xsp_frame {
  uint64_t integer[6]; /* rdi rsi rdx rcx r8 r9 */
  uint64_t rax;        /* al: number of vector registers of a variadic call */
  uint64_t r10;
  uint8_t vector[8][16]; /* xmm0 to xmm7 */
  uint64_t stub;
  void *real;
  uint64_t result; /* rax on return */
  int64_t start_ns;
  uint32_t run;
  uint32_t sequence;
  const uint64_t *stack; /* the caller's stack arguments */
  int64_t kept[XSP_KEPT];
};

/* One library call. numpy reads it by the dtype in interpose.py. */
struct xsp_record {
  int64_t start_ns, end_ns;
  int64_t arguments[XSP_KEPT];
  uint32_t thread, run, sequence, stub;
};

/* Called before a live call with its integer registers and stack slots, while the arguments are alive. */
typedef void (*xsp_live_callback)(uint32_t stub, uint32_t sequence, const uint64_t *integer, const uint64_t *stack);

extern struct xsp_stub xsp_stubs[XSP_STUBS];
extern char xsp_stub_entries[];

int xsp_calls_enter(struct xsp_frame *frame);
void xsp_calls_leave(struct xsp_frame *frame);
void xsp_calls_abandon(void);
int xsp_calls_open(xsp_live_callback callback, int64_t record_limit);
void xsp_calls_close(void);

#endif
