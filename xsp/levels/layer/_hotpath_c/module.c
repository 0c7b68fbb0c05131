/* The extension module `_hotpath`: its types, and the names that they look up. */
#include "hotpath.h"

static int hotpath_exec(PyObject *module)
{
    struct {
        PyTypeObject **type;
        PyType_Spec *spec;
    } types[] = {
        {&recorder_type, &recorder_spec}, {&site_type, &site_spec}, {&layer_type, &layer_spec},
        {&handler_type, &handler_spec}, {&hook_type, &hook_spec},
        {&registrar_type, &registrar_spec}};
    struct {
        PyObject **name;
        const char *text;
    } names[] = {
        {&s_grad_fn, "grad_fn"}, {&s_next_functions, "next_functions"}, {&s_types, "types"},
        {&s_register_prehook, "register_prehook"}, {&s_remove, "remove"}, {&s_args, "args"},
        {&s_kwargs, "kwargs"}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        *types[i].type = (PyTypeObject *)PyType_FromModuleAndSpec(module, types[i].spec, NULL);
        if (!*types[i].type)
            return -1;
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *names[i].name = PyUnicode_InternFromString(names[i].text);
        if (!*names[i].name)
            return -1;
    }
    return PyModule_AddType(module, recorder_type);
}

static PyModuleDef_Slot hotpath_slots[] = {
    {Py_mod_exec, hotpath_exec},
#if PY_VERSION_HEX >= 0x030c0000
    /* The types are kept in static variables. */
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL}};

static PyMethodDef hotpath_methods[] = {
    {"registrar", new_registrar, METH_VARARGS,
     "What keeps hooks of a recorder among a node's hooks, and leaves others to `other`."},
    {"binding", binding_of, METH_O, "Number of a binding, None where it cannot be watched."},
    {"item_access", item_access, METH_VARARGS, "Numbers of what gets and sets a tensor's items."},
    {"open_bindings", open_bindings, METH_O, "Let calls of bindings go through entries of ours."},
    {"close_bindings", close_bindings, METH_NOARGS, "Undo open_bindings()."},
    {"bindings_are_open", bindings_are_open, METH_NOARGS, "Whether calls go through entries."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef hotpath_module = {
    PyModuleDef_HEAD_INIT, .m_name = "_hotpath",
    .m_doc = "The layer tracer's hot paths; recorder.py says the same in Python.",
    .m_methods = hotpath_methods,
    .m_slots = hotpath_slots};

PyMODINIT_FUNC PyInit__hotpath(void)
{
    return PyModuleDef_Init(&hotpath_module);
}
