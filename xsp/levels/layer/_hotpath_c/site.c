/* Sites: places of the program, with what the structure run found out about their calls. */
#include "hotpath.h"

PyTypeObject *site_type;

static void free_plan(Plan *plan)
{
    for (Py_ssize_t i = 0; plan && i < plan->size; i++) {
        Py_CLEAR(plan->ways[i].steps);
        Py_CLEAR(plan->ways[i].hook);
        Py_CLEAR(plan->ways[i].node);
    }
    PyMem_Free(plan);
}

static int site_clear(PyObject *self)
{
    Site *site = (Site *)self;
    Plan **plans = site->plans;
    Py_ssize_t size = site->size;
    site->plans = NULL;
    site->size = 0;
    for (Py_ssize_t i = 0; plans && i < size; i++)
        free_plan(plans[i]);
    PyMem_Free(plans);
    return 0;
}

static int site_traverse(PyObject *self, visitproc visit, void *arg)
{
    Site *site = (Site *)self;
    Py_VISIT(Py_TYPE(self));
    for (Py_ssize_t i = 0; i < site->size; i++) {
        Plan *plan = site->plans[i];
        for (Py_ssize_t j = 0; plan && j < plan->size; j++)
            Py_VISIT(plan->ways[j].hook);
    }
    return 0;
}

static void site_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    RELEASE_TYPE(self, site_clear(self));
}

static int read_way(Recorder *recorder, PyObject *given, Way *way, Py_ssize_t place)
{
    PyObject *steps;
    long long event;
    if (!PyArg_ParseTuple(given, "nnO!L", &way->base, &way->edge, &PyTuple_Type, &steps, &event))
        return -1;
    if (way->base >= place) {
        PyErr_SetString(PyExc_ValueError, "a way must follow the way that it starts from");
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(steps); i++) {
        PyObject *step = PyTuple_GET_ITEM(steps, i);
        if (!PyTuple_Check(step) || PyTuple_GET_SIZE(step) != 2) {
            PyErr_SetString(PyExc_TypeError, "a step is a pair of kind and key");
            return -1;
        }
    }
    way->steps = Py_NewRef(steps);
    if (event >= 0)
        way->hook = (PyObject *)new_hook(recorder, event);
    return event >= 0 && !way->hook ? -1 : 0;
}

static Plan *read_plan(Recorder *recorder, PyObject *given)
{
    PyObject *ways = PySequence_Tuple(given);
    if (!ways)
        return NULL;
    Py_ssize_t size = PyTuple_GET_SIZE(ways);
    Plan *plan = PyMem_Calloc(1, sizeof *plan + size * sizeof(Way));
    if (!plan)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; plan && i < size; i++) {
        plan->size = i + 1;
        if (read_way(recorder, PyTuple_GET_ITEM(ways, i), &plan->ways[i], i) < 0) {
            free_plan(plan);
            plan = NULL;
        }
    }
    Py_DECREF(ways);
    return plan;
}

PyObject *recorder_site(PyObject *self, PyObject *args)
{
    long long code;
    PyObject *given;
    if (!PyArg_ParseTuple(args, "LO", &code, &given))
        return NULL;
    PyObject *plans = PySequence_Tuple(given);
    Site *site = plans ? (Site *)site_type->tp_alloc(site_type, 0) : NULL;
    if (!site) {
        Py_XDECREF(plans);
        return NULL;
    }
    Py_ssize_t size = PyTuple_GET_SIZE(plans);
    site->code = code;
    site->plans = PyMem_Calloc(size + 1, sizeof(Plan *));
    if (!site->plans)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < size && !PyErr_Occurred(); i++) {
        PyObject *plan = PyTuple_GET_ITEM(plans, i);
        site->size = i + 1;
        if (plan != Py_None)
            site->plans[i] = read_plan((Recorder *)self, plan);
    }
    Py_DECREF(plans);
    if (PyErr_Occurred())
        Py_CLEAR(site);
    return (PyObject *)site;
}

static PyObject *site_new_run(PyObject *self, PyObject *Py_UNUSED(none))
{
    ((Site *)self)->seen = 0;
    Py_RETURN_NONE;
}

static PyMethodDef site_methods[] = {
    {"new_run", site_new_run, METH_NOARGS, "Count calls from zero again."},
    {NULL, NULL, 0, NULL}};

static PyMemberDef site_members[] = {
    {"code", T_LONGLONG, offsetof(Site, code), READONLY, "What the stamps of its calls say."},
    {NULL, 0, 0, 0, NULL}};

static PyType_Slot site_slots[] = {
    {Py_tp_methods, site_methods}, {Py_tp_members, site_members},
    {Py_tp_traverse, site_traverse}, {Py_tp_clear, site_clear},
    {Py_tp_dealloc, site_dealloc}, {0, NULL}};

PyType_Spec site_spec = {
    NAMED("Site"), sizeof(Site), 0, COMMON | Py_TPFLAGS_DISALLOW_INSTANTIATION, site_slots};
