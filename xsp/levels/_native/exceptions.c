/* Holding off exceptions that another thread raises in this one (PyThreadState_SetAsyncExc), as deadlines and
 * cancellations do that cannot use a signal.
 *
 * Python leaves such an exception with the first thread state that has the thread's number, and puts new states in
 * front. So a second state of this thread, in which nothing ever runs, receives what is meant for the first; when the
 * block ends it is handed on. Whether Python does so is tried once, which also finds where a state keeps its exception.
 * If it does not, nothing is held off here.
 *
 * Every function needs the GIL, and a Python that has one: nobody can set an exception between two lines.
 */
#include "exceptions.h"
#include "native.h"

#include <pthread.h>
#include <stddef.h>
#include <string.h>

enum { SEARCHED_BYTES = 256 }; /* every PyThreadState is larger */

typedef void *object; /* PyObject, PyThreadState, PyInterpreterState */

/* Of Python's C API, in the order of `_EXCEPTION_FUNCTIONS` in signals.py. */
static struct {
  object (*current_state)(void);     /* PyThreadState_Get */
  object (*new_state)(object);       /* PyThreadState_New */
  void (*clear_state)(object);       /* PyThreadState_Clear */
  void (*delete_state)(object);      /* PyThreadState_Delete */
  int (*set)(unsigned long, object); /* PyThreadState_SetAsyncExc */
  object (*interpreter)(void);       /* PyInterpreterState_Get */
  object (*call)(object, object);    /* PyObject_CallObject */
  void (*clear_error)(void);         /* PyErr_Clear */
  void (*take)(object);              /* Py_IncRef */
  void (*drop)(object);              /* Py_DecRef */
} python;

static object do_nothing;   /* a Python function: Python looks for exceptions when one begins */
static size_t exception_at; /* in a thread state; 0: exceptions are not held off */

static __thread object decoy;

static object exception_of(const void *state) {
  object exception;
  memcpy(&exception, (const char *)state + exception_at, sizeof exception);
  return exception;
}

static void set(object exception) { python.set((unsigned long)pthread_self(), exception); }

static void delete_decoy(void) {
  object state = decoy;
  decoy = NULL;
  python.clear_state(state);
  python.delete_state(state);
}

void exceptions_hold(void) {
  if (!exception_at || decoy) return;
  object early = exception_of(python.current_state());
  if (early) {
    python.take(early);
    set(NULL);
  }
  decoy = python.new_state(python.interpreter());
  if (early) {
    set(early);
    python.drop(early);
  }
}

void exceptions_let_through(void) {
  if (!decoy) return;
  object held = exception_of(decoy);
  if (held) python.take(held);
  delete_decoy();
  if (held) {
    set(held);
    python.drop(held);
  }
}

int exceptions_raise_pending(void) {
  if (!exception_at || !exception_of(python.current_state())) return 0;
  object result = python.call(do_nothing, NULL);
  if (result) python.drop(result);
  return !result;
}

void exceptions_forget(void) { decoy = NULL; }

/* Where a state keeps the exception that is set for its thread, or 0 if that is not plain. */
static size_t find(object sample) {
  size_t found = 0;
  int times = 0;
  for (size_t at = sizeof(object); at < SEARCHED_BYTES; at += sizeof(object)) {
    object word;
    memcpy(&word, (const char *)decoy + at, sizeof word);
    if (word == sample) {
      found = at;
      times++;
    }
  }
  return times == 1 ? found : 0;
}

/* Learns how to hold exceptions off; `sample` is an exception class that nobody else uses. Returns 0, or -1 if this
 * Python does not hand exceptions to the newest state. */
XSP_EXPORT int xsp_exceptions_prepare(const void *const *functions, object function, object sample) {
  memcpy(&python, functions, sizeof python);
  do_nothing = function;
  exception_at = 0;
  decoy = python.new_state(python.interpreter());
  if (!decoy) return -1;
  set(sample);
  size_t at = find(sample);
  delete_decoy();
  /* Up to Python 3.12 a flag says that an exception waits somewhere, and slows every thread, until one is raised. */
  set(sample);
  object result = python.call(do_nothing, NULL);
  if (result) python.drop(result);
  python.clear_error();
  exception_at = at;
  return at ? 0 : -1;
}
