/* Exceptions that another thread raises in this one, held off with its signals. */
#ifndef XSP_EXCEPTIONS_H
#define XSP_EXCEPTIONS_H

/* From now on such an exception waits, also one that has been set and not been raised yet. */
void exceptions_hold(void);

/* What waits is Python's to raise again. */
void exceptions_let_through(void);

/* Has Python raise what is set for this thread and not raised yet; 1 if it did, 0 if there is nothing. */
int exceptions_raise_pending(void);

/* In a forked process, where Python deletes every thread state but the one that runs. */
void exceptions_forget(void);

#endif
