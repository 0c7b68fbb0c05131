/* The torch function mode, off and on. */
#include "hotpath.h"

long stack_depth(Recorder *recorder)
{
    PyObject *depth = PyObject_CallNoArgs(recorder->mode_depth);
    long value = depth ? PyLong_AsLong(depth) : -1;
    Py_XDECREF(depth);
    return value;
}

int push_mode(Recorder *recorder, PyObject *mode)
{
    PyObject *none = PyObject_CallOneArg(recorder->push, mode);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

/* 1 if the mode was on top and is taken off, 0 if it stays and lets pass, -1 with an error. On a
 * thread with modes of its own another mode can lie at our depth. */
int switch_off(Recorder *recorder, Log *log)
{
    if (recorder->is_following && !log->muted && !log->off) {
        log->off++;
        return 1;
    }
    if (recorder->mode && !log->muted) {
        long depth = stack_depth(recorder);
        if (depth < 0)
            return -1;
        if (depth == recorder->depth) {
            PyObject *top = PyObject_CallNoArgs(recorder->pop);
            if (!top)
                return -1;
            int ours = top == recorder->mode;
            int failed = ours ? 0 : push_mode(recorder, top);
            Py_DECREF(top);
            if (failed)
                return -1;
            if (ours) {
                log->off++;
                return 1;
            }
        }
    }
    log->muted++;
    return 0;
}

int switch_on(Recorder *recorder, Log *log, int was_on)
{
    if (was_on) {
        log->off--;
        return recorder->mode ? push_mode(recorder, recorder->mode) : 0;
    }
    log->muted--;
    return 0;
}
