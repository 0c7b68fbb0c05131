/* torch's bindings: the C functions through which Python reaches torch's operators. While calls are
 * watched they lead through entries of ours, however the program came by the function: a method's
 * stands as a pointer in a table of methods, read at every call; a function object has one of its
 * own, so that its table, from which its hash is made, stays as it is; item access stands in types.
 */
#include "hotpath.h"
#include <unistd.h>

#define METHODS 4096
#define GET_ITEM METHODS
#define SET_ITEM (METHODS + 1)

/* `pointer` is where it stands, in what `callable` keeps alive. By `flags`, where there are any, the
 * interpreter calls the function past its object: they are `own_flags` while nobody watches. */
typedef struct {
    void **pointer, *real;
    int convention, *flags, own_flags;
    PyObject *callable;
} Binding;

/* Where item access stands in a type, and in its slot wrapper. Types come and go. */
typedef struct {
    void **pointer;
    int binding;
    PyObject *owner;
} Place;

static Binding bindings[METHODS + 2];
static int methods;
static Place *places;
static Py_ssize_t size, room;
static int is_open;

typedef PyObject *(*Three)(PyObject *, PyObject *, PyObject *);
typedef PyObject *(*Four)(PyObject *, PyObject *, PyObject *, PyObject *);

#define OF_OBJECT 0 /* a convention: what stands in a function object is called as that is */

/* As the interpreter calls what takes a tuple and a dictionary. */
static PyObject *call_packed(PyObject *callable, PyObject *const *given, size_t nargsf, PyObject *names)
{
    Py_ssize_t count = PyVectorcall_NARGS(nargsf);
    PyObject *args = PyTuple_New(count);
    PyObject *kwargs = args && names && PyTuple_GET_SIZE(names) ? PyDict_New() : NULL;
    for (Py_ssize_t i = 0; args && i < count; i++)
        PyTuple_SET_ITEM(args, i, Py_NewRef(given[i]));
    for (Py_ssize_t i = 0; kwargs && i < PyTuple_GET_SIZE(names); i++)
        if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(names, i), given[count + i]) < 0)
            break;
    PyObject *result =
        PyErr_Occurred() ? NULL : Py_TYPE(callable)->tp_call(callable, args, kwargs);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return result;
}

static PyObject *call_real(
    const Binding *binding, PyObject *a, PyObject *b, PyObject *c, PyObject *d)
{
    switch (binding->convention) {
    case OF_OBJECT:
        if (!binding->real)
            return call_packed(a, (PyObject *const *)b, (size_t)c, d);
        return ((Four)binding->real)(a, b, c, d);
    case METH_NOARGS:
    case METH_O:
    case METH_VARARGS:
        return ((binaryfunc)binding->real)(a, b);
    case METH_VARARGS | METH_KEYWORDS:
    case METH_FASTCALL:
        return ((Three)binding->real)(a, b, c);
    default:
        return ((Four)binding->real)(a, b, c, d);
    }
}

/* Every convention passes up to four words: those that a caller did not pass are not read. */
static PyObject *entered(PyObject *a, PyObject *b, PyObject *c, PyObject *d, int number)
{
    Call call;
    int is_watched = call_begins(number, &call);
    PyObject *result = call_real(&bindings[number], a, b, c, d);
    if (is_watched)
        call_ends(&call, result);
    return result;
}

static PyObject *get_item(PyObject *self, PyObject *key)
{
    Call call;
    int is_watched = call_begins(GET_ITEM, &call);
    PyObject *result = ((binaryfunc)bindings[GET_ITEM].real)(self, key);
    if (is_watched)
        call_ends(&call, result);
    return result;
}

static int set_item(PyObject *self, PyObject *key, PyObject *value)
{
    Call call;
    int is_watched = call_begins(SET_ITEM, &call);
    int failed = ((objobjargproc)bindings[SET_ITEM].real)(self, key, value);
    if (is_watched)
        call_ends(&call, NULL);
    return failed;
}

#define ENTRY(n)                                                                 \
    static PyObject *entry_##n(PyObject *a, PyObject *b, PyObject *c, PyObject *d) \
    {                                                                            \
        return entered(a, b, c, d, 0x##n);                                       \
    }
#define NAME(n) (void *)entry_##n,
#define TIMES_16(what, n) \
    what(n##0) what(n##1) what(n##2) what(n##3) \
    what(n##4) what(n##5) what(n##6) what(n##7) \
    what(n##8) what(n##9) what(n##a) what(n##b) \
    what(n##c) what(n##d) what(n##e) what(n##f)
#define TIMES_256(what, n) \
    TIMES_16(what, n##0) TIMES_16(what, n##1) TIMES_16(what, n##2) TIMES_16(what, n##3) \
    TIMES_16(what, n##4) TIMES_16(what, n##5) TIMES_16(what, n##6) TIMES_16(what, n##7) \
    TIMES_16(what, n##8) TIMES_16(what, n##9) TIMES_16(what, n##a) TIMES_16(what, n##b) \
    TIMES_16(what, n##c) TIMES_16(what, n##d) TIMES_16(what, n##e) TIMES_16(what, n##f)
#define TIMES_4096(what) \
    TIMES_256(what, 0) TIMES_256(what, 1) TIMES_256(what, 2) TIMES_256(what, 3) \
    TIMES_256(what, 4) TIMES_256(what, 5) TIMES_256(what, 6) TIMES_256(what, 7) \
    TIMES_256(what, 8) TIMES_256(what, 9) TIMES_256(what, a) TIMES_256(what, b) \
    TIMES_256(what, c) TIMES_256(what, d) TIMES_256(what, e) TIMES_256(what, f)

TIMES_4096(ENTRY)
static void *const entries[METHODS] = {TIMES_4096(NAME)};

static void *entry_of(int binding)
{
    if (binding == GET_ITEM)
        return (void *)get_item;
    return binding == SET_ITEM ? (void *)set_item : entries[binding];
}

static void replace(void **pointer, void *present, void *other)
{
    if (*pointer == present)
        *pointer = other;
}

/* No function of these flags is called past its object: not by the interpreter, which looks for
 * others, and not by `f.__call__`, which leaves all but METH_VARARGS to the object. */
#define BY_OBJECT METH_NOARGS

static void lead_through_entry(int method)
{
    Binding *binding = &bindings[method];
    replace(binding->pointer, binding->real, entry_of(method));
    if (binding->flags)
        *binding->flags = BY_OBJECT;
}

static void lead_directly(int method)
{
    Binding *binding = &bindings[method];
    if (binding->flags)
        *binding->flags = binding->own_flags;
    replace(binding->pointer, entry_of(method), binding->real);
}

/* A table of methods may lie in memory that is read only: the kernel says so without a fault. */
static int is_writable(void **pointer)
{
    int ends[2];
    if (pipe(ends) < 0)
        return 0;
    int can = write(ends[1], pointer, sizeof *pointer) == (ssize_t)sizeof *pointer &&
              read(ends[0], pointer, sizeof *pointer) == (ssize_t)sizeof *pointer;
    close(ends[0]);
    close(ends[1]);
    return can;
}

static int add_place(void **pointer, int binding, PyObject *owner)
{
    if (size == room) {
        Py_ssize_t more = room ? 2 * room : 64;
        Place *grown = PyMem_RawRealloc(places, more * sizeof *grown);
        if (!grown) {
            PyErr_NoMemory();
            return -1;
        }
        places = grown;
        room = more;
    }
    places[size++] = (Place){pointer, binding, Py_NewRef(owner)};
    return 0;
}

static int is_known_convention(int convention)
{
    switch (convention) {
    case METH_NOARGS:
    case METH_O:
    case METH_VARARGS:
    case METH_VARARGS | METH_KEYWORDS:
    case METH_FASTCALL:
    case METH_FASTCALL | METH_KEYWORDS:
        return 1;
    default:
        return 0;
    }
}

/* -1 where it is not there yet. */
static int number_of(void **pointer)
{
    for (int i = 0; i < methods; i++)
        if (bindings[i].pointer == pointer)
            return i;
    return -1;
}

static int add_binding(Binding binding)
{
    int found = number_of(binding.pointer);
    if (found >= 0 || methods == METHODS || !is_writable(binding.pointer))
        return found;
    Py_INCREF(binding.callable);
    bindings[methods] = binding;
    if (is_open)
        lead_through_entry(methods);
    return methods++;
}

#define CONVENTION(flags) ((flags) & ~(METH_CLASS | METH_STATIC | METH_COEXIST))

static int add_method(PyObject *descriptor)
{
    PyMethodDef *definition = ((PyMethodDescrObject *)descriptor)->d_method;
    void **pointer = (void **)&definition->ml_meth;
    int convention = CONVENTION(definition->ml_flags);
    if (!is_known_convention(convention))
        return -1;
    return add_binding((Binding){pointer, *pointer, convention, NULL, 0, descriptor});
}

/* The interpreter calls some functions past their object, by flags that it looks at each time. */
static int add_function(PyObject *function)
{
    PyCFunctionObject *object = (PyCFunctionObject *)function;
    void **pointer = (void **)&object->vectorcall;
    int *flags = &object->m_ml->ml_flags;
    if (!is_known_convention(CONVENTION(*flags)))
        return -1;
    int is_past = object->vectorcall && is_writable((void **)flags);
    return add_binding((Binding){pointer, *pointer, OF_OBJECT, is_past ? flags : NULL, *flags, function});
}

/* binding(callable): its number, None where it is none or cannot be watched. */
PyObject *binding_of(PyObject *Py_UNUSED(module), PyObject *callable)
{
    int found = -1;
    if (PyCFunction_CheckExact(callable))
        found = add_function(callable);
    else if (Py_IS_TYPE(callable, &PyMethodDescr_Type))
        found = add_method(callable);
    return found < 0 ? Py_NewRef(Py_None) : PyLong_FromLong(found);
}

/* item_access(get, set): the slot wrappers of a tensor's; their numbers, for good. */
PyObject *item_access(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *get, *set;
    if (!PyArg_ParseTuple(args, "O!O!", &PyWrapperDescr_Type, &get, &PyWrapperDescr_Type, &set))
        return NULL;
    if (!is_open && !bindings[GET_ITEM].real) {
        bindings[GET_ITEM].real = ((PyWrapperDescrObject *)get)->d_wrapped;
        bindings[GET_ITEM].callable = Py_NewRef(get);
        bindings[SET_ITEM].real = ((PyWrapperDescrObject *)set)->d_wrapped;
        bindings[SET_ITEM].callable = Py_NewRef(set);
    }
    return Py_BuildValue("ii", GET_ITEM, SET_ITEM);
}

static int add_wrappers(void)
{
    for (int binding = GET_ITEM; binding <= SET_ITEM; binding++) {
        PyObject *wrapper = bindings[binding].callable;
        if (wrapper &&
            add_place(&((PyWrapperDescrObject *)wrapper)->d_wrapped, binding, wrapper) < 0)
            return -1;
    }
    return 0;
}

static int add_types(PyObject *types)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(types); i++) {
        PyObject *type = PyTuple_GET_ITEM(types, i);
        PyMappingMethods *mapping = PyType_Check(type) ? ((PyTypeObject *)type)->tp_as_mapping : NULL;
        if (!mapping)
            continue;
        if (add_place((void **)&mapping->mp_subscript, GET_ITEM, type) < 0 ||
            add_place((void **)&mapping->mp_ass_subscript, SET_ITEM, type) < 0)
            return -1;
    }
    return 0;
}

static void put_back(void)
{
    for (int i = 0; i < methods; i++)
        lead_directly(i);
    for (Py_ssize_t i = 0; i < size; i++) {
        Place *place = &places[i];
        replace(place->pointer, entry_of(place->binding), bindings[place->binding].real);
        Py_CLEAR(place->owner);
    }
    size = 0;
    is_open = 0;
}

/* open_bindings(types): from now on calls go through the entries, item access of these types too. */
PyObject *open_bindings(PyObject *Py_UNUSED(module), PyObject *types)
{
    if (!PyTuple_Check(types) || is_open) {
        PyErr_SetString(PyExc_RuntimeError, is_open ? "bindings are open" : "not a tuple of types");
        return NULL;
    }
    if (add_wrappers() < 0 || add_types(types) < 0) {
        put_back();
        return NULL;
    }
    is_open = 1;
    for (int i = 0; i < methods; i++)
        lead_through_entry(i);
    for (Py_ssize_t i = 0; i < size; i++) {
        Place *place = &places[i];
        replace(place->pointer, bindings[place->binding].real, entry_of(place->binding));
    }
    Py_RETURN_NONE;
}

/* close_bindings(): every pointer as it was. Calls that are under way end as they began. */
PyObject *close_bindings(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    put_back();
    Py_RETURN_NONE;
}

/* bindings_are_open(): whether any call goes through an entry. */
PyObject *bindings_are_open(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(is_open);
}
