/* Hooks before backward nodes, and how torch's registration of them is made cheaper. */
#include "hotpath.h"

PyTypeObject *hook_type, *registrar_type;

static PyObject *hook_call(
    PyObject *self, PyObject *const *Py_UNUSED(args), size_t Py_UNUSED(nargsf),
    PyObject *Py_UNUSED(kwnames))
{
    Hook *hook = (Hook *)self;
    Log *log = log_of(hook->recorder);
    if (!log)
        return NULL;
    put(log, hook->event);
    Py_RETURN_NONE;
}

static int hook_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Hook *)self)->recorder);
    return 0;
}

static void hook_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(((Hook *)self)->recorder);
    RELEASE_TYPE(self, (void)0);
}

Hook *new_hook(Recorder *recorder, int64_t event)
{
    Hook *hook = (Hook *)hook_type->tp_alloc(hook_type, 0);
    if (!hook)
        return NULL;
    hook->vectorcall = hook_call;
    hook->recorder = (Recorder *)Py_NewRef(recorder);
    hook->event = event;
    return hook;
}

PyObject *recorder_hook(PyObject *self, PyObject *event)
{
    long long value = PyLong_AsLongLong(event);
    if (value == -1 && PyErr_Occurred())
        return NULL;
    return (PyObject *)new_hook((Recorder *)self, value);
}

/* What torch asks for a place among a node's hooks: `(hooks or None, hook)` gives the hooks and what
 * removes the new one. torch's own makes an object with a weak reference, at 1 us; a hook of ours is
 * its own key, and the dictionary itself is what removes it. */
static PyObject *registrar_call(
    PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    Registrar *registrar = (Registrar *)self;
    if (PyVectorcall_NARGS(nargsf) != 2 || kwnames || !Py_IS_TYPE(args[1], hook_type))
        return PyObject_Vectorcall(registrar->other, args, nargsf, kwnames);
    PyObject *hooks =
        args[0] == Py_None ? PyObject_CallNoArgs(registrar->make_dict) : Py_NewRef(args[0]);
    if (!hooks)
        return NULL;
    PyObject *both =
        PyObject_SetItem(hooks, args[1], args[1]) < 0 ? NULL : PyTuple_Pack(2, hooks, hooks);
    Py_DECREF(hooks);
    return both;
}

static int registrar_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Registrar *)self)->make_dict);
    Py_VISIT(((Registrar *)self)->other);
    return 0;
}

static void registrar_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    Py_CLEAR(((Registrar *)self)->make_dict);
    Py_CLEAR(((Registrar *)self)->other);
    RELEASE_TYPE(self, (void)0);
}

PyObject *new_registrar(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *make_dict, *other;
    if (!PyArg_ParseTuple(args, "OO", &make_dict, &other))
        return NULL;
    Registrar *registrar = (Registrar *)registrar_type->tp_alloc(registrar_type, 0);
    if (!registrar)
        return NULL;
    registrar->vectorcall = registrar_call;
    registrar->make_dict = Py_NewRef(make_dict);
    registrar->other = Py_NewRef(other);
    return (PyObject *)registrar;
}

static PyMemberDef hook_members[] = {VECTORCALL(Hook), {NULL, 0, 0, 0, NULL}};

static PyMemberDef registrar_members[] = {VECTORCALL(Registrar), {NULL, 0, 0, 0, NULL}};

static PyType_Slot hook_slots[] = {
    {Py_tp_members, hook_members}, {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, hook_traverse}, {Py_tp_dealloc, hook_dealloc}, {0, NULL}};

static PyType_Slot registrar_slots[] = {
    {Py_tp_members, registrar_members}, {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, registrar_traverse}, {Py_tp_dealloc, registrar_dealloc}, {0, NULL}};

PyType_Spec hook_spec = {NAMED("Hook"), sizeof(Hook), 0, CALLED, hook_slots};
PyType_Spec registrar_spec = {
    NAMED("Registrar"), sizeof(Registrar), 0, CALLED, registrar_slots};
