/* Interrupts that another thread asks for (`_thread.interrupt_main`), held off with the signals. */
#ifndef XSP_INTERRUPTS_H
#define XSP_INTERRUPTS_H

/* From now on an interrupt is only noted. Of the main thread, as everything here. 1 if a handler that was due has
 * raised; its exception is set. */
int interrupts_hold(void);

/* Interrupts again, also for what was noted. Keeps the Python exception that is set. */
void interrupts_let_through(void);

#endif
