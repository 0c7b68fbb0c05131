/* What a module's entry point is replaced by while a run is timed. */
#include "hotpath.h"

PyTypeObject *layer_type;

static PyObject *layer_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    Layer *layer = (Layer *)self;
    Recorder *recorder = layer->recorder;
    Site *site = layer->site;
    Log *log = log_of(recorder);
    int was_on = log ? switch_off(recorder, log) : -1;
    if (was_on < 0)
        return NULL;
    put(log, 2 * site->code);
    PyObject *output = PyObject_Vectorcall(layer->inner, args, nargsf, kwnames);
    put(log, 2 * site->code + 1);
    if (output) {
        /* The mode stays off meanwhile: reading a tensor's attributes is a torch function too. */
        adopt(recorder, site, output);
        if (switch_on(recorder, log, was_on) < 0)
            Py_CLEAR(output);
        return output;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    adopt(recorder, site, NULL);
    if (switch_on(recorder, log, was_on) < 0)
        PyErr_Clear();
    PyErr_Restore(type, value, traceback);
    return NULL;
}

static int layer_traverse(PyObject *self, visitproc visit, void *arg)
{
    Layer *layer = (Layer *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(layer->recorder);
    Py_VISIT(layer->site);
    Py_VISIT(layer->inner);
    return 0;
}

static int layer_clear(PyObject *self)
{
    /* The recorder and the site stay: `layer_call` reads them. The bound method is what leads back
     * to the module. */
    Py_XSETREF(((Layer *)self)->inner, Py_NewRef(Py_None));
    return 0;
}

/* What a call needs is kept until the object goes: the collector may clear it while it runs. */
static void layer_dealloc(PyObject *self)
{
    Layer *layer = (Layer *)self;
    PyObject_GC_UnTrack(self);
    Py_CLEAR(layer->inner);
    Py_CLEAR(layer->site);
    Py_CLEAR(layer->recorder);
    RELEASE_TYPE(self, (void)0);
}

PyObject *recorder_layer(PyObject *self, PyObject *args)
{
    PyObject *inner, *site;
    if (!PyArg_ParseTuple(args, "OO!", &inner, site_type, &site))
        return NULL;
    Layer *layer = (Layer *)layer_type->tp_alloc(layer_type, 0);
    if (!layer)
        return NULL;
    layer->vectorcall = layer_call;
    layer->recorder = (Recorder *)Py_NewRef(self);
    layer->site = (Site *)Py_NewRef(site);
    layer->inner = Py_NewRef(inner);
    return (PyObject *)layer;
}

static PyMemberDef layer_members[] = {VECTORCALL(Layer), {NULL, 0, 0, 0, NULL}};

static PyType_Slot layer_slots[] = {
    {Py_tp_members, layer_members}, {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, layer_traverse}, {Py_tp_clear, layer_clear},
    {Py_tp_dealloc, layer_dealloc}, {0, NULL}};

PyType_Spec layer_spec = {NAMED("Layer"), sizeof(Layer), 0, CALLED, layer_slots};
