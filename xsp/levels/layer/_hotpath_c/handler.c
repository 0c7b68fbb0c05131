/* What the mode calls at every functional call. */
#include "hotpath.h"

PyTypeObject *handler_type;
PyObject *s_types, *s_args, *s_kwargs;

/* A borrowed site, Py_None where the function is no layer, NULL with an error. */
static PyObject *function_site(Recorder *recorder, PyObject *function)
{
    PyObject *site = PyDict_GetItemWithError(recorder->functions, function);
    if (site || PyErr_Occurred())
        return site;
    site = PyObject_CallOneArg(recorder->site_of, function);
    if (!site)
        return NULL;
    if (site != Py_None && !Py_IS_TYPE(site, site_type)) {
        PyErr_Format(PyExc_TypeError, "%R is no site of this recorder", site);
        Py_CLEAR(site);
    } else if (PyDict_SetItem(recorder->functions, function, site) < 0) {
        Py_CLEAR(site);
    }
    Py_XDECREF(site); /* the dictionary keeps it */
    return site;
}

/* `(function, types, args=(), kwargs=None)`, as torch calls it and as Python code may. */
static int torch_function_arguments(
    PyObject *const *given, size_t nargsf, PyObject *kwnames, PyObject *read[4])
{
    PyObject *names[4] = {NULL, s_types, s_args, s_kwargs};
    Py_ssize_t size = PyVectorcall_NARGS(nargsf);
    for (Py_ssize_t i = 0; i < size && i < 4; i++)
        read[i] = given[i];
    for (Py_ssize_t i = 0; kwnames && i < PyTuple_GET_SIZE(kwnames); i++)
        for (int name = 1; name < 4; name++)
            if (PyUnicode_Compare(PyTuple_GET_ITEM(kwnames, i), names[name]) == 0)
                read[name] = given[size + i];
    if (!read[0] || size > 4) {
        PyErr_SetString(PyExc_TypeError, "__torch_function__ takes func, types, args and kwargs");
        return -1;
    }
    return 0;
}

static PyObject *handler_call(
    PyObject *self, PyObject *const *given, size_t nargsf, PyObject *kwnames)
{
    Recorder *recorder = ((Handler *)self)->recorder;
    PyObject *read[4] = {NULL, NULL, NULL, NULL};
    if (torch_function_arguments(given, nargsf, kwnames, read) < 0)
        return NULL;
    Log *log = log_of(recorder);
    PyObject *site = log ? function_site(recorder, read[0]) : NULL;
    if (!site)
        return NULL;
    PyObject *args = read[2] ? PySequence_Tuple(read[2]) : PyTuple_New(0);
    if (!args)
        return NULL;
    PyObject *kwargs = read[3] == Py_None ? NULL : read[3];
    int stamped = site != Py_None && !log->muted;
    if (stamped)
        put(log, 2 * ((Site *)site)->code);
    PyObject *result = PyObject_Call(read[0], args, kwargs);
    if (stamped) {
        put(log, 2 * ((Site *)site)->code + 1);
        adopt(recorder, (Site *)site, result);
    }
    Py_DECREF(args);
    return result;
}

static int handler_traverse(PyObject *self, visitproc visit, void *arg)
{
    Handler *handler = (Handler *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(handler->recorder);
    Py_VISIT(handler->mode);
    return 0;
}

static int handler_clear(PyObject *self)
{
    Py_XSETREF(((Handler *)self)->mode, Py_NewRef(Py_None));
    return 0;
}

static void handler_dealloc(PyObject *self)
{
    Handler *handler = (Handler *)self;
    PyObject_GC_UnTrack(self);
    Py_CLEAR(handler->mode);
    Py_CLEAR(handler->recorder);
    RELEASE_TYPE(self, (void)0);
}

/* torch takes a callable as a mode's `__torch_function__` if its `__self__` is the mode. */
PyObject *recorder_handler(PyObject *self, PyObject *mode)
{
    Handler *handler = (Handler *)handler_type->tp_alloc(handler_type, 0);
    if (!handler)
        return NULL;
    handler->vectorcall = handler_call;
    handler->recorder = (Recorder *)Py_NewRef(self);
    handler->mode = Py_NewRef(mode);
    return (PyObject *)handler;
}

static PyMemberDef handler_members[] = {
    VECTORCALL(Handler),
    {"__self__", T_OBJECT, offsetof(Handler, mode), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

static PyType_Slot handler_slots[] = {
    {Py_tp_members, handler_members}, {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, handler_traverse}, {Py_tp_clear, handler_clear},
    {Py_tp_dealloc, handler_dealloc}, {0, NULL}};

PyType_Spec handler_spec = {NAMED("Handler"), sizeof(Handler), 0, CALLED, handler_slots};
