/* Holding off interrupts of another thread: `_thread.interrupt_main` (PyErr_SetInterrupt), with which Ray cancels tasks
 * and consoles stop a program.
 *
 * Python then runs the handler of SIGINT in the main thread though no signal has come, so that no disposition matters.
 * While signals are held off, a handler that takes note stands in Python's own table instead of the program's.
 */
#include "interrupts.h"
#include "native.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>

typedef void *object; /* PyObject */

/* Of Python, in the order of `_INTERRUPT_FUNCTIONS` in signals.py. */
static struct {
  object (*call)(object, ...);                 /* PyObject_CallFunctionObjArgs */
  int (*is_callable)(object);                  /* PyCallable_Check */
  void (*fetch)(object *, object *, object *); /* PyErr_Fetch */
  void (*restore)(object, object, object);     /* PyErr_Restore */
  void (*interrupt)(void);                     /* PyErr_SetInterrupt */
  void (*drop)(object);                        /* Py_DecRef, for which NULL is nothing */
} python;

static object get_handler, set_handler, sigint; /* `_signal.getsignal`, `_signal.signal`, the number */
static object note;                             /* the handler that takes note; NULL: interrupts are not held off */

static object replaced; /* the program's handler while `note` stands there */
static int noted;

/* Python's functions are not to be called with an exception set. */
struct error {
  object kind, value, traceback;
};

static struct error error_set(void) {
  struct error error;
  python.fetch(&error.kind, &error.value, &error.traceback);
  return error;
}

static void forget_error(struct error error) {
  python.drop(error.kind);
  python.drop(error.value);
  python.drop(error.traceback);
}

/* Python sets the flags of a disposition anew with its handler; those of the program stay. */
static int put(object handler) {
  struct sigaction before;
  sigaction(SIGINT, NULL, &before);
  object result = python.call(set_handler, sigint, handler, NULL);
  if (!result) return 0;
  python.drop(result);
  sigaction(SIGINT, &before, NULL);
  return 1;
}

/* 1 if a handler that was due has raised: Python runs those first. */
static int take_place(void) {
  object handler = python.call(get_handler, sigint, NULL);
  if (!handler) return 1;
  int wanted = python.is_callable(handler) && handler != note;
  if (wanted && put(note)) {
    replaced = handler;
    return 0;
  }
  python.drop(handler);
  return wanted;
}

int interrupts_hold(void) {
  if (!note || replaced) return 0;
  struct error before = error_set();
  int raised = take_place();
  if (raised)
    forget_error(before); /* as where an exception is raised while another is handled */
  else
    python.restore(before.kind, before.value, before.traceback);
  return raised;
}

void interrupts_let_through(void) {
  if (!replaced) return;
  struct error before = error_set();
  object present = python.call(get_handler, sigint, NULL);
  if (present == note) put(replaced);
  python.drop(present);
  python.drop(replaced);
  replaced = NULL;
  python.restore(before.kind, before.value, before.traceback);
  if (noted) python.interrupt();
  noted = 0;
}

/* The handler that takes note. */
XSP_EXPORT void xsp_interrupts_note(int number, object frame) {
  (void)number, (void)frame;
  noted = 1;
}

/* Learns how to hold interrupts off; whoever calls keeps the objects. */
XSP_EXPORT void xsp_interrupts_prepare(const void *const *functions, object get, object set, object number,
                                       object handler) {
  memcpy(&python, functions, sizeof python);
  get_handler = get;
  set_handler = set;
  sigint = number;
  note = handler;
}
