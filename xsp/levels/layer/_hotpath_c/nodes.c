/* Backward nodes of a call: found by the ways of the structure run, and given hooks. */
#include "hotpath.h"

PyObject *s_grad_fn, *s_next_functions, *s_register_prehook, *s_remove;

static PyObject *step_along(Recorder *recorder, PyObject *value, PyObject *step)
{
    PyObject *key = PyTuple_GET_ITEM(step, 1);
    switch (PyLong_AsLong(PyTuple_GET_ITEM(step, 0))) {
    case 0:
        return PyObject_GetItem(value, key);
    case 1:
        return PyObject_GetAttr(value, key);
    default:
        return PyObject_CallFunctionObjArgs(recorder->found, value, key, NULL);
    }
}

static PyObject *tensor_at(Recorder *recorder, PyObject *output, PyObject *steps)
{
    PyObject *value = Py_NewRef(output);
    for (Py_ssize_t i = 0; value && i < PyTuple_GET_SIZE(steps); i++) {
        PyObject *inner = step_along(recorder, value, PyTuple_GET_ITEM(steps, i));
        Py_SETREF(value, inner);
    }
    return value;
}

/* Reading an attribute is a torch function: no mode or tensor subclass of the user's may see it. */
static PyObject *grad_fn_of(Recorder *recorder, PyObject *tensor, int unseen)
{
    PyObject *type = (PyObject *)Py_TYPE(tensor);
    if (unseen && (type == recorder->tensor || type == recorder->parameter))
        return PyObject_GetAttr(tensor, s_grad_fn);
    return PyObject_CallOneArg(recorder->made, tensor);
}

static PyObject *next_function(PyObject *node, Py_ssize_t edge)
{
    PyObject *all = PyObject_GetAttr(node, s_next_functions);
    if (!all)
        return NULL;
    PyObject *found = NULL;
    if (PyTuple_Check(all) && edge < PyTuple_GET_SIZE(all))
        found = Py_NewRef(PyTuple_GET_ITEM(PyTuple_GET_ITEM(all, edge), 0));
    Py_DECREF(all);
    return found;
}

static PyObject *node_of(Recorder *recorder, Plan *plan, Way *way, PyObject *output, int unseen)
{
    PyObject *node;
    if (way->base >= 0) {
        PyObject *base = plan->ways[way->base].node;
        node = base ? next_function(base, way->edge) : NULL;
    } else {
        PyObject *tensor = tensor_at(recorder, output, way->steps);
        node = tensor ? grad_fn_of(recorder, tensor, unseen) : NULL;
        Py_XDECREF(tensor);
    }
    if (node == Py_None)
        Py_CLEAR(node);
    return node;
}

/* `handles` has the handle and the hook of each in turn. */
int watch_node(Recorder *recorder, PyObject *node, PyObject *hook)
{
    PyObject *handle = PyObject_CallMethodOneArg(node, s_register_prehook, hook);
    if (!handle)
        return -1;
    int failed = PyList_Append(recorder->handles, handle);
    if (!failed)
        failed = PyList_Append(recorder->handles, hook);
    Py_DECREF(handle);
    return failed;
}

/* The handle is a dictionary where the registrar served, else torch's. */
int take_off(PyObject *handle, PyObject *hook)
{
    if (PyDict_Check(handle)) {
        int there = PyDict_Contains(handle, hook);
        return there > 0 ? PyObject_DelItem(handle, hook) : there;
    }
    PyObject *none = PyObject_CallMethodNoArgs(handle, s_remove);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

/* A run that gives other outputs than the structure run did has no such node: it is not stamped. */
static void follow(Recorder *recorder, Plan *plan, PyObject *output)
{
    int unseen = stack_depth(recorder) == 0;
    for (Py_ssize_t i = 0; i < plan->size; i++) {
        Way *way = &plan->ways[i];
        way->node = node_of(recorder, plan, way, output, unseen);
        if (way->node && way->hook)
            watch_node(recorder, way->node, way->hook);
        PyErr_Clear();
    }
    for (Py_ssize_t i = 0; i < plan->size; i++)
        Py_CLEAR(plan->ways[i].node);
}

static void adopt_unknown(Recorder *recorder, PyObject *output)
{
    PyObject *enabled = PyObject_CallNoArgs(recorder->grad_enabled);
    if (enabled == Py_True)
        Py_XDECREF(PyObject_CallOneArg(recorder->unknown, output));
    Py_XDECREF(enabled);
    PyErr_Clear();
}

/* Count a call that has ended and watch its backward nodes. Keeps the error that is set. */
void adopt(Recorder *recorder, Site *site, PyObject *output)
{
    Py_ssize_t call = site->seen++;
    if (call < site->size && !site->plans[call])
        return;
    if (!output)
        return;
    if (call < site->size)
        follow(recorder, site->plans[call], output);
    else
        adopt_unknown(recorder, output);
}
