/* Stamps of each thread, in chunks that are kept from run to run. */
#include "hotpath.h"

_Thread_local Own own;

static Log *new_log(Recorder *recorder, unsigned long thread)
{
    Log *log = PyMem_RawCalloc(1, sizeof *log);
    Chunk *chunk = log ? PyMem_RawCalloc(1, sizeof *chunk) : NULL;
    if (!chunk) {
        PyMem_RawFree(log);
        PyErr_NoMemory();
        return NULL;
    }
    log->thread = thread;
    log->first = log->current = chunk;
    log->next = recorder->logs;
    take_steps(recorder, log);
    recorder->logs = log;
    return log;
}

Log *find_log(Recorder *recorder)
{
    unsigned long thread = PyThread_get_thread_ident();
    Log *log = recorder->logs;
    while (log && log->thread != thread)
        log = log->next;
    if (!log)
        log = new_log(recorder, thread);
    own.log = log;
    own.recorder = log ? recorder->id : 0;
    return log;
}

int next_chunk(Log *log)
{
    Chunk *next = log->current->next;
    if (!next) {
        next = PyMem_RawMalloc(sizeof *next);
        if (!next)
            return 0;
        next->next = NULL;
        log->current->next = next;
    }
    next->used = 0;
    log->current = next;
    return 1;
}

void empty_log(Log *log)
{
    log->current = log->first;
    log->current->used = 0;
    log->lost = 0;
}

void free_logs(Recorder *recorder)
{
    Log *log = recorder->logs;
    recorder->logs = NULL;
    while (log) {
        Log *next = log->next;
        for (Chunk *chunk = log->first; chunk;) {
            Chunk *after = chunk->next;
            PyMem_RawFree(chunk);
            chunk = after;
        }
        PyMem_RawFree(log->was_on);
        PyMem_RawFree(log);
        log = next;
    }
}

PyObject *bytes_of(Log *log)
{
    Py_ssize_t stamps = 0;
    for (Chunk *chunk = log->first; chunk; chunk = chunk->next) {
        stamps += chunk->used;
        if (chunk == log->current)
            break;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, stamps * sizeof(Stamp));
    char *end = bytes ? PyBytes_AS_STRING(bytes) : NULL;
    for (Chunk *chunk = log->first; bytes && chunk; chunk = chunk->next) {
        memcpy(end, chunk->stamps, chunk->used * sizeof(Stamp));
        end += chunk->used * sizeof(Stamp);
        if (chunk == log->current)
            break;
    }
    return bytes;
}
