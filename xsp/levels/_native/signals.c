/* Holding signals off while something is switched, so that no handler of the program can raise half way; and with them
 * what other threads raise in this one (exceptions.c, interrupts.c).
 *
 * Python runs its signal handlers between two bytecodes of the main thread, and a handler may raise (SIGINT, a SIGTERM
 * that exits, a deadline by SIGALRM). A block that holds them off must itself begin and end between two bytecodes, so
 * each change here is one call: it replaces the disposition of every signal that Python handles by a note of its
 * arrival. Python's own table of handlers is not touched for it, only for interrupts.c. When the
 * block ends the dispositions come back and what was noted is raised again.
 */
#include "exceptions.h"
#include "interrupts.h"
#include "native.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { LAST_SIGNAL = 64, NESTED = 64 };

enum state { THROUGH, HOLD, HOLD_SIGNALS };

static __thread unsigned char states[NESTED]; /* of the blocks around, outermost first */
static __thread int depth;

static int signals_held;

static struct sigaction originals[LAST_SIGNAL + 1];
static unsigned char replaced[LAST_SIGNAL + 1];
static atomic_int arrived[LAST_SIGNAL + 1];

static int (*run_python_handlers)(void); /* PyErr_CheckSignals */
static const void *python_base, *python_handler;
static int forked_by_main;

static int is_main_thread(void) { return syscall(SYS_gettid) == getpid(); }

static void note(int number) { atomic_store(&arrived[number], 1); }

/* A fault of the program itself comes back at once if its handler only takes note. */
static int is_synchronous(int number) {
  return number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGILL || number == SIGTRAP ||
         number == SIGSYS || number == SIGABRT;
}

static int is_pythons(const struct sigaction *action) {
  void *handler = (void *)action->sa_handler;
  if (action->sa_handler == SIG_DFL || action->sa_handler == SIG_IGN) return 0;
  if (handler == python_handler) return 1;
  Dl_info info;
  if (!dladdr(handler, &info) || info.dli_fbase != python_base) return 0;
  python_handler = handler;
  return 1;
}

static void replace_dispositions(void) {
  for (int number = 1; number <= LAST_SIGNAL; number++) {
    struct sigaction action;
    if (is_synchronous(number) || sigaction(number, NULL, &action) || !is_pythons(&action)) continue;
    originals[number] = action;
    action.sa_handler = note;
    action.sa_flags = (action.sa_flags & ~SA_SIGINFO) | SA_RESTART;
    replaced[number] = sigaction(number, &action, NULL) == 0;
  }
  signals_held = 1;
}

/* A disposition that was changed meanwhile is somebody's decision, and stays. */
static void restore_dispositions(void) {
  for (int number = 1; number <= LAST_SIGNAL; number++) {
    struct sigaction action;
    if (replaced[number] && sigaction(number, NULL, &action) == 0 && action.sa_handler == note)
      sigaction(number, &originals[number], NULL);
    replaced[number] = 0;
  }
  signals_held = 0;
}

static void raise_arrived(void) {
  for (int number = 1; number <= LAST_SIGNAL; number++)
    if (atomic_exchange(&arrived[number], 0)) raise(number);
}

/* 1 if a handler that was due has raised. Only the main thread runs Python's handlers. */
static int hold_signals(void) {
  if (signals_held || !is_main_thread()) return 0;
  int raised = interrupts_hold(); /* while Python's own disposition stands: it writes that too */
  replace_dispositions();
  return raised;
}

static void let_signals_through(void) {
  if (!signals_held || !is_main_thread()) return;
  restore_dispositions();
  interrupts_let_through();
  raise_arrived();
}

static int apply(void) {
  int innermost = depth < NESTED ? depth : NESTED;
  int wanted = innermost ? states[innermost - 1] : THROUGH;
  if (wanted == HOLD)
    exceptions_hold();
  else
    exceptions_let_through();
  if (wanted != THROUGH) return hold_signals();
  let_signals_through();
  return 0;
}

static int enter(enum state state) {
  if (depth < NESTED) states[depth] = (unsigned char)state;
  depth++;
  return apply();
}

static void leave(void) {
  if (depth > 0) depth--;
  apply();
}

static void before_fork(void) { forked_by_main = is_main_thread(); }

/* Whoever held signals off is not in the child, unless it is the one that forked. */
static void in_child(void) {
  exceptions_forget();
  if (forked_by_main) return;
  if (signals_held) restore_dispositions();
  memset(arrived, 0, sizeof arrived);
}

/* The same for what only Python may put back, once it has arranged itself in a forked process. */
XSP_EXPORT void xsp_signals_after_fork(void) {
  if (!forked_by_main) interrupts_let_through();
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

static void register_fork(void) { pthread_atfork(before_fork, NULL, in_child); }

/* `check_signals` is PyErr_CheckSignals; handlers in the same file are Python's. Returns 0, or -1 if it is in none. */
XSP_EXPORT int xsp_signals_prepare(int (*check_signals)(void)) {
  Dl_info info;
  if (!dladdr((void *)check_signals, &info)) return -1;
  python_base = info.dli_fbase;
  run_python_handlers = check_signals;
  pthread_once(&once, register_fork);
  return 0;
}

/* Holds signals and exceptions off. What arrived before is handled first; if that raises, nothing is held. Needs the
 * GIL. */
XSP_EXPORT void xsp_signals_hold(void) {
  if (exceptions_raise_pending()) return;
  if (enter(HOLD) || (is_main_thread() && run_python_handlers())) leave();
}

/* The same for signals alone. */
XSP_EXPORT void xsp_signals_hold_only_signals(void) {
  if (enter(HOLD_SIGNALS) || (is_main_thread() && run_python_handlers())) leave();
}

/* Lets them through inside a block that holds them off. If an exception that waited is raised at once, the block is not
 * entered. */
XSP_EXPORT void xsp_signals_let_through(void) {
  enter(THROUGH);
  if (exceptions_raise_pending()) leave();
}

/* Ends the innermost block of either kind. The arguments are those of `__exit__`; 0: an exception goes on. */
XSP_EXPORT int xsp_signals_leave(void *kind, void *error, void *traceback) {
  (void)kind, (void)error, (void)traceback;
  leave();
  return 0;
}

/* Forgets every block that was entered and never left: for tests, which raise where Python itself never does, between
 * the end of a `with` block and the call of `__exit__`. */
XSP_EXPORT void xsp_signals_forget(void) {
  depth = 0;
  apply();
}
