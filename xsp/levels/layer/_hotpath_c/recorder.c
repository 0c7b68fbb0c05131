/* The recorder: what Python sees, and what owns the threads' logs. */
#include "hotpath.h"

PyTypeObject *recorder_type;
static uint64_t recorders;

static PyObject *recorder_attach(PyObject *self, PyObject *args)
{
    Recorder *recorder = (Recorder *)self;
    PyObject *mode;
    long depth;
    if (!PyArg_ParseTuple(args, "Ol", &mode, &depth))
        return NULL;
    Py_XSETREF(recorder->mode, mode == Py_None ? NULL : Py_NewRef(mode));
    recorder->depth = depth;
    /* A signal's handler that raised can have left a thread switched off. */
    for (Log *log = recorder->logs; log; log = log->next)
        log->muted = log->off = log->suspended = 0;
    Py_RETURN_NONE;
}

static PyObject *recorder_suspend(PyObject *self, PyObject *Py_UNUSED(none))
{
    Recorder *recorder = (Recorder *)self;
    Log *log = log_of(recorder);
    if (!log)
        return NULL;
    if (log->suspended == log->room) {
        size_t room = log->room ? 2 * log->room : 64;
        unsigned char *grown = PyMem_RawRealloc(log->was_on, room);
        if (!grown)
            return PyErr_NoMemory();
        log->was_on = grown;
        log->room = room;
    }
    int was_on = switch_off(recorder, log);
    if (was_on < 0)
        return NULL;
    log->was_on[log->suspended++] = (unsigned char)was_on;
    Py_RETURN_NONE;
}

static PyObject *recorder_resume(PyObject *self, PyObject *Py_UNUSED(none))
{
    Recorder *recorder = (Recorder *)self;
    Log *log = log_of(recorder);
    if (!log)
        return NULL;
    if (!log->suspended) {
        PyErr_SetString(PyExc_IndexError, "resume() without suspend() on this thread");
        return NULL;
    }
    if (switch_on(recorder, log, log->was_on[--log->suspended]) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *recorder_mute(PyObject *self, PyObject *Py_UNUSED(none))
{
    Log *log = log_of((Recorder *)self);
    if (!log)
        return NULL;
    log->muted++;
    Py_RETURN_NONE;
}

static PyObject *recorder_unmute(PyObject *self, PyObject *Py_UNUSED(none))
{
    Log *log = log_of((Recorder *)self);
    if (!log)
        return NULL;
    if (log->muted)
        log->muted--;
    Py_RETURN_NONE;
}

static PyObject *recorder_muted(PyObject *self, PyObject *Py_UNUSED(none))
{
    Log *log = log_of((Recorder *)self);
    return log ? PyBool_FromLong(log->muted) : NULL;
}

static PyObject *recorder_stamp(PyObject *self, PyObject *event)
{
    Log *log = log_of((Recorder *)self);
    long long value = PyLong_AsLongLong(event);
    if (!log || (value == -1 && PyErr_Occurred()))
        return NULL;
    put(log, value);
    Py_RETURN_NONE;
}

static PyObject *recorder_adopt(PyObject *self, PyObject *args)
{
    PyObject *site, *output;
    if (!PyArg_ParseTuple(args, "O!O", site_type, &site, &output))
        return NULL;
    adopt((Recorder *)self, (Site *)site, output);
    Py_RETURN_NONE;
}

static PyObject *recorder_watch(PyObject *self, PyObject *args)
{
    PyObject *node, *hook;
    if (!PyArg_ParseTuple(args, "OO", &node, &hook) || watch_node((Recorder *)self, node, hook) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *recorder_forget_nodes(PyObject *self, PyObject *Py_UNUSED(none))
{
    PyObject *handles = ((Recorder *)self)->handles;
    for (Py_ssize_t i = 0; i + 1 < PyList_GET_SIZE(handles); i += 2)
        if (take_off(PyList_GET_ITEM(handles, i), PyList_GET_ITEM(handles, i + 1)) < 0)
            return NULL;
    if (PyList_SetSlice(handles, 0, PyList_GET_SIZE(handles), NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *recorder_empty(PyObject *self, PyObject *Py_UNUSED(none))
{
    for (Log *log = ((Recorder *)self)->logs; log; log = log->next)
        empty_log(log);
    Py_RETURN_NONE;
}

static PyObject *recorder_logs(PyObject *self, PyObject *Py_UNUSED(none))
{
    PyObject *all = PyList_New(0);
    for (Log *log = ((Recorder *)self)->logs; all && log; log = log->next) {
        PyObject *bytes = bytes_of(log);
        PyObject *pair = bytes ? Py_BuildValue("kN", log->thread, bytes) : NULL;
        if (!pair || PyList_Append(all, pair) < 0)
            Py_CLEAR(all);
        Py_XDECREF(pair);
    }
    return all;
}

static PyObject *recorder_lost(PyObject *self, PyObject *Py_UNUSED(none))
{
    size_t lost = 0;
    for (Log *log = ((Recorder *)self)->logs; log; log = log->next)
        lost += log->lost;
    return PyLong_FromSize_t(lost);
}

static PyObject *recorder_last(PyObject *self, PyObject *Py_UNUSED(none))
{
    Stamp *last = NULL;
    for (Log *log = ((Recorder *)self)->logs; log; log = log->next) {
        size_t used = log->current->used;
        Stamp *own = used ? &log->current->stamps[used - 1] : NULL;
        if (own && (!last || own->time_ns > last->time_ns))
            last = own;
    }
    if (!last)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(last->event);
}

static int recorder_traverse(PyObject *self, visitproc visit, void *arg)
{
    Recorder *recorder = (Recorder *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(recorder->mode);
    Py_VISIT(recorder->functions);
    Py_VISIT(recorder->handles);
    Py_VISIT(recorder->site_of);
    Py_VISIT(recorder->unknown);
    Py_VISIT(recorder->found);
    Py_VISIT(recorder->made);
    int stopped = visit_steps(recorder->starting, visit, arg);
    return stopped ? stopped : visit_steps(recorder->other, visit, arg);
}

static int recorder_clear(PyObject *self)
{
    Recorder *recorder = (Recorder *)self;
    Py_CLEAR(recorder->mode);
    forget_steps(recorder);
    if (recorder->functions)
        PyDict_Clear(recorder->functions);
    if (recorder->handles)
        PyList_SetSlice(recorder->handles, 0, PyList_GET_SIZE(recorder->handles), NULL);
    return 0;
}

static void recorder_dealloc(PyObject *self)
{
    Recorder *recorder = (Recorder *)self;
    PyObject_GC_UnTrack(self);
    forget_steps(recorder);
    free_logs(recorder);
    Py_CLEAR(recorder->mode);
    Py_CLEAR(recorder->functions);
    Py_CLEAR(recorder->handles);
    Py_CLEAR(recorder->mode_depth);
    Py_CLEAR(recorder->push);
    Py_CLEAR(recorder->pop);
    Py_CLEAR(recorder->grad_enabled);
    Py_CLEAR(recorder->tensor);
    Py_CLEAR(recorder->parameter);
    Py_CLEAR(recorder->site_of);
    Py_CLEAR(recorder->unknown);
    Py_CLEAR(recorder->found);
    Py_CLEAR(recorder->made);
    RELEASE_TYPE(self, (void)0);
}

static PyObject *recorder_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {
        "mode_depth", "push", "pop", "grad_enabled", "tensor", "parameter",
        "site_of", "unknown", "found", "made", NULL};
    PyObject *given[10];
    if (!PyArg_ParseTupleAndKeywords(
            args, kwargs, "OOOOOOOOOO", names, &given[0], &given[1], &given[2], &given[3],
            &given[4], &given[5], &given[6], &given[7], &given[8], &given[9]))
        return NULL;
    Recorder *recorder = (Recorder *)type->tp_alloc(type, 0);
    if (!recorder)
        return NULL;
    PyObject **fields[] = {
        &recorder->mode_depth, &recorder->push, &recorder->pop, &recorder->grad_enabled,
        &recorder->tensor, &recorder->parameter, &recorder->site_of, &recorder->unknown,
        &recorder->found, &recorder->made};
    for (int i = 0; i < 10; i++)
        *fields[i] = Py_NewRef(given[i]);
    recorder->id = ++recorders;
    recorder->functions = PyDict_New();
    recorder->handles = PyList_New(0);
    if (!recorder->functions || !recorder->handles)
        Py_CLEAR(recorder);
    return (PyObject *)recorder;
}

static PyMethodDef recorder_methods[] = {
    {"attach", recorder_attach, METH_VARARGS, "The mode, and its depth in the stack of modes."},
    {"suspend", recorder_suspend, METH_NOARGS, "Switch the mode off on this thread."},
    {"resume", recorder_resume, METH_NOARGS, "Undo the last suspend() of this thread."},
    {"mute", recorder_mute, METH_NOARGS, "Let functional calls of this thread pass."},
    {"unmute", recorder_unmute, METH_NOARGS, "Undo a mute() of this thread."},
    {"muted", recorder_muted, METH_NOARGS, "Whether functional calls of this thread pass."},
    {"site", recorder_site, METH_VARARGS, "A place of the program, from its code and plans."},
    {"layer", recorder_layer, METH_VARARGS, "What to call instead of a module's entry point."},
    {"handler", recorder_handler, METH_O, "What to give the mode as __torch_function__."},
    {"hook", recorder_hook, METH_O, "A hook that stamps this event."},
    {"watch", recorder_watch, METH_VARARGS, "Put a hook before a node until forget_nodes()."},
    {"forget_nodes", recorder_forget_nodes, METH_NOARGS, "Take all hooks off their nodes."},
    {"stamp", recorder_stamp, METH_O, "Write an event with the time."},
    {"adopt", recorder_adopt, METH_VARARGS, "Count a call and watch its backward nodes."},
    {"expect", recorder_expect, METH_VARARGS, "The calls of bindings that runs make, by thread."},
    {"watch_calls", recorder_watch_calls, METH_O, "Record calls of bindings, or compare them."},
    {"begin_calls", recorder_begin_calls, METH_NOARGS, "The first step comes next."},
    {"end_calls", recorder_end_calls, METH_NOARGS, "Undo watch_calls()."},
    {"passed", recorder_passed, METH_VARARGS, "A call of what has a number like a binding."},
    {"sees", recorder_sees, METH_NOARGS, "Whether functional calls of this thread are seen."},
    {"anew", recorder_anew, METH_NOARGS, "See them, whatever is under way on this thread."},
    {"as_before", recorder_as_before, METH_VARARGS, "Undo anew(), given what it returned."},
    {"row_begins", recorder_row_begins, METH_O, "Calls are this row's, in a record."},
    {"item_of", recorder_item_of, METH_O, "The item of a result that the last call gave."},
    {"row_ends", recorder_row_ends, METH_O, "Undo row_begins()."},
    {"strayed", recorder_strayed, METH_NOARGS, "Where a run left the steps, None where it did not."},
    {"empty", recorder_empty, METH_NOARGS, "Forget all stamps; their memory is kept."},
    {"logs", recorder_logs, METH_NOARGS, "(thread, event and time_ns as bytes) of each thread."},
    {"lost", recorder_lost, METH_NOARGS, "Stamps for which there was no memory."},
    {"last", recorder_last, METH_NOARGS, "The last event, None before the first."},
    {NULL, NULL, 0, NULL}};

static PyType_Slot recorder_slots[] = {
    {Py_tp_new, recorder_new}, {Py_tp_methods, recorder_methods},
    {Py_tp_traverse, recorder_traverse}, {Py_tp_clear, recorder_clear},
    {Py_tp_dealloc, recorder_dealloc}, {0, NULL}};

PyType_Spec recorder_spec = {
    NAMED("Recorder"), sizeof(Recorder), 0, COMMON | Py_TPFLAGS_BASETYPE, recorder_slots};
