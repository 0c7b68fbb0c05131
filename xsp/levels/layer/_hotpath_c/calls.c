/* Calls of bindings: recorded in the structure run, and in timed runs compared one by one with what
 * was recorded, which says at which of them a layer begins and ends. */
#include "hotpath.h"

static Recorder *watching;

/* In a record an event is four times what it is of, and one of these. */
enum { CALL_BEGINS, CALL_ENDS, ROW_BEGINS, ROW_ENDS };

static void free_steps(Steps *steps)
{
    for (Py_ssize_t i = 0; steps && i < steps->size; i++) {
        Py_CLEAR(steps->each[i].begins);
        Py_CLEAR(steps->each[i].ends);
    }
    PyMem_Free(steps);
}

int visit_steps(const Steps *steps, visitproc visit, void *arg)
{
    for (Py_ssize_t i = 0; steps && i < steps->size; i++) {
        Py_VISIT(steps->each[i].begins);
        Py_VISIT(steps->each[i].ends);
    }
    return 0;
}

void forget_steps(Recorder *recorder)
{
    Steps *starting = recorder->starting, *other = recorder->other;
    recorder->starting = recorder->other = NULL;
    begin_steps(recorder);
    free_steps(starting);
    free_steps(other);
}

void take_steps(Recorder *recorder, Log *log)
{
    log->steps = log->thread == recorder->thread ? recorder->starting : recorder->other;
    log->at = log->inside = log->within = log->strayed = 0;
}

void begin_steps(Recorder *recorder)
{
    for (Log *log = recorder->logs; log; log = log->next)
        take_steps(recorder, log);
}

/* Where a run leaves the steps it has a layer, of no length, that the structure run has not. */
static const Step *next_step(Recorder *recorder, Log *log, int binding)
{
    if (!log->steps || log->strayed)
        return NULL;
    const Step *step = &log->steps->each[log->at];
    if (log->at < log->steps->size && step->binding == binding) {
        log->at++;
        return step;
    }
    log->strayed = 1;
    log->strayed_to = binding;
    put(log, 2 * recorder->stray_code);
    put(log, 2 * recorder->stray_code + 1);
    return NULL;
}

int call_begins(int binding, Call *call)
{
    Recorder *recorder = watching;
    if (!recorder)
        return 0;
    Log *log = log_of(recorder);
    if (!log) {
        PyErr_Clear();
        return 0;
    }
    if (log->muted || log->off || log->inside)
        return 0;
    call->step = NULL;
    if (recorder->is_recording) {
        put(log, 4 * (int64_t)binding + CALL_BEGINS);
    } else {
        call->step = next_step(recorder, log, binding);
        if (!call->step)
            return 0;
        if (call->step->begins) {
            put(log, 2 * call->step->begins->code);
            log->within = 1;
        }
    }
    call->binding = binding;
    call->log = log;
    call->recorder = (Recorder *)Py_NewRef(recorder);
    log->inside = 1;
    return 1;
}

/* A function in Python can give a tuple that holds what its last call gave: the ways to the nodes
 * start from that tuple. */
static PyObject *as_item(PyObject *result, Py_ssize_t item)
{
    PyObject *tuple = PyTuple_New(item + 1);
    for (Py_ssize_t i = 0; tuple && i <= item; i++)
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(i < item ? Py_None : result));
    return tuple;
}

static void adopt_result(const Call *call, PyObject *result)
{
    if (!result || call->step->item < 0) {
        adopt(call->recorder, call->step->ends, result);
        return;
    }
    PyObject *output = as_item(result, call->step->item);
    if (!output)
        PyErr_Clear();
    adopt(call->recorder, call->step->ends, output);
    Py_XDECREF(output);
}

/* Keeps the error that is set. */
void call_ends(Call *call, PyObject *result)
{
    Log *log = call->log;
    if (!call->step) {
        put(log, 4 * (int64_t)call->binding + CALL_ENDS);
        log->given = result;
    } else if (call->step->ends) {
        log->within = 0;
        put(log, 2 * call->step->ends->code + 1);
        adopt_result(call, result);
    }
    log->inside = 0;
    Py_DECREF(call->recorder);
}

/* sees(): whether functional calls of this thread are seen, as where a mode is on. */
PyObject *recorder_sees(PyObject *self, PyObject *Py_UNUSED(none))
{
    Log *log = log_of((Recorder *)self);
    return log ? PyBool_FromLong(!(log->muted || log->off || log->inside || log->within)) : NULL;
}

/* anew(): they are from now on, but where the thread is muted; returns what as_before() is given. */
PyObject *recorder_anew(PyObject *self, PyObject *Py_UNUSED(none))
{
    Log *log = log_of((Recorder *)self);
    if (!log)
        return NULL;
    PyObject *before = Py_BuildValue("Iii", log->off, log->inside, log->within);
    log->off = log->inside = log->within = 0;
    return before;
}

PyObject *recorder_as_before(PyObject *self, PyObject *args)
{
    Log *log = log_of((Recorder *)self);
    if (!log || !PyArg_ParseTuple(args, "Iii", &log->off, &log->inside, &log->within))
        return NULL;
    Py_RETURN_NONE;
}

/* passed(binding, result): a call of something that is no binding but has a number like one. */
PyObject *recorder_passed(PyObject *self, PyObject *args)
{
    Call call;
    int binding;
    PyObject *result;
    if (!PyArg_ParseTuple(args, "iO", &binding, &result))
        return NULL;
    if ((PyObject *)watching == self && call_begins(binding, &call))
        call_ends(&call, result == Py_None ? NULL : result);
    Py_RETURN_NONE;
}

/* row_begins(row): calls from here on are the row's; returns what row_ends() is given. */
PyObject *recorder_row_begins(PyObject *self, PyObject *row)
{
    Log *log = log_of((Recorder *)self);
    long long value = PyLong_AsLongLong(row);
    if (!log || (value == -1 && PyErr_Occurred()))
        return NULL;
    put(log, 4 * value + ROW_BEGINS);
    int inside = log->inside;
    log->inside = 0;
    log->given = NULL;
    return PyLong_FromLong(inside);
}

/* -1 where it is the object itself, -2 where it is not even an item. */
static Py_ssize_t item_of(PyObject *result, PyObject *given)
{
    if (result == given)
        return -1;
    for (Py_ssize_t i = 0; PyTuple_Check(result) && i < PyTuple_GET_SIZE(result); i++)
        if (PyTuple_GET_ITEM(result, i) == given)
            return i;
    return -2;
}

/* item_of(result): which item of a row's result its last call gave. */
PyObject *recorder_item_of(PyObject *self, PyObject *result)
{
    Log *log = log_of((Recorder *)self);
    return log ? PyLong_FromSsize_t(item_of(result, log->given)) : NULL;
}

/* row_ends(inside) */
PyObject *recorder_row_ends(PyObject *self, PyObject *inside)
{
    Log *log = log_of((Recorder *)self);
    if (!log)
        return NULL;
    put(log, ROW_ENDS);
    log->inside = PyLong_AsLong(inside) == 1;
    Py_RETURN_NONE;
}

static int read_step(Step *step, PyObject *given)
{
    PyObject *begins, *ends;
    if (!PyArg_ParseTuple(given, "iOOn", &step->binding, &begins, &ends, &step->item))
        return -1;
    if ((begins != Py_None && !Py_IS_TYPE(begins, site_type)) ||
        (ends != Py_None && !Py_IS_TYPE(ends, site_type))) {
        PyErr_SetString(PyExc_TypeError, "a step begins and ends sites, or None");
        return -1;
    }
    step->begins = begins == Py_None ? NULL : (Site *)Py_NewRef(begins);
    step->ends = ends == Py_None ? NULL : (Site *)Py_NewRef(ends);
    return 0;
}

static Steps *read_steps(PyObject *given)
{
    Py_ssize_t count = PyList_GET_SIZE(given);
    Steps *steps = PyMem_Calloc(1, sizeof *steps + count * sizeof(Step));
    if (!steps) {
        PyErr_NoMemory();
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *step = PyList_GET_ITEM(given, i);
        steps->size = i + 1;
        if (!PyTuple_Check(step) || read_step(&steps->each[i], step) < 0) {
            if (!PyErr_Occurred())
                PyErr_SetString(PyExc_TypeError, "a step is a tuple");
            free_steps(steps);
            return NULL;
        }
    }
    return steps;
}

/* expect(starting, other, code): the steps of the thread that calls watch_calls(), and of the one
 * other that has any, and the code of what is none of them. Steps are lists of (binding, site that
 * begins or None, site that ends or None, item); they are taken from watch_calls() on. */
PyObject *recorder_expect(PyObject *self, PyObject *args)
{
    Recorder *recorder = (Recorder *)self;
    PyObject *starting, *other;
    long long code;
    if (!PyArg_ParseTuple(args, "O!O!L", &PyList_Type, &starting, &PyList_Type, &other, &code))
        return NULL;
    Steps *first = read_steps(starting);
    Steps *second = first && PyList_GET_SIZE(other) ? read_steps(other) : NULL;
    if (PyErr_Occurred()) {
        free_steps(first);
        return NULL;
    }
    forget_steps(recorder);
    recorder->starting = first;
    recorder->other = second;
    recorder->stray_code = code;
    Py_RETURN_NONE;
}

/* watch_calls(is_recording): the bindings' calls are told to this recorder. */
PyObject *recorder_watch_calls(PyObject *self, PyObject *is_recording)
{
    Recorder *recorder = (Recorder *)self;
    recorder->is_recording = PyObject_IsTrue(is_recording) == 1;
    recorder->is_following = !recorder->is_recording;
    recorder->thread = PyThread_get_thread_ident();
    begin_steps(recorder);
    Py_XSETREF(watching, (Recorder *)Py_NewRef(self));
    Py_RETURN_NONE;
}

/* end_calls(): nobody is told any more, if it was this recorder. */
PyObject *recorder_end_calls(PyObject *self, PyObject *Py_UNUSED(none))
{
    ((Recorder *)self)->is_following = 0;
    if ((PyObject *)watching == self)
        Py_CLEAR(watching);
    Py_RETURN_NONE;
}

PyObject *recorder_begin_calls(PyObject *self, PyObject *Py_UNUSED(none))
{
    begin_steps((Recorder *)self);
    Py_RETURN_NONE;
}

static Py_ssize_t begins_left(const Steps *steps, Py_ssize_t at)
{
    Py_ssize_t left = 0;
    for (Py_ssize_t i = at; steps && i < steps->size; i++)
        left += steps->each[i].begins != NULL;
    return left;
}

/* strayed(): None where every step was taken, else the steps taken, the binding called instead (-1
 * for none) and the layers that did not begin. */
PyObject *recorder_strayed(PyObject *self, PyObject *Py_UNUSED(none))
{
    Recorder *recorder = (Recorder *)self;
    Py_ssize_t at = -1, left = 0;
    int binding = -1, other_ran = 0;
    for (Log *log = recorder->logs; log; log = log->next) {
        if (!log->steps || (log->thread != recorder->thread && !log->at && !log->strayed))
            continue;
        other_ran |= log->thread != recorder->thread;
        left += begins_left(log->steps, log->at);
        if (at < 0 && (log->strayed || log->at < log->steps->size)) {
            at = log->at;
            binding = log->strayed ? log->strayed_to : -1;
        }
    }
    if (recorder->other && !other_ran) {
        left += begins_left(recorder->other, 0);
        at = at < 0 ? 0 : at;
    }
    if (at < 0)
        Py_RETURN_NONE;
    return Py_BuildValue("nin", at, binding, left);
}
