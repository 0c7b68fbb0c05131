/* What a timed run does at every module call, functional call and backward node: recorder.py in C.
 *
 * A stamp is an event and a time, 16 bytes in a chunk of the thread's own log. Chunks are kept from
 * run to run, so once a run has been made nothing is allocated here, and no thread waits for
 * another. The interpreter's lock guards what threads share (the sites' counters, the list of
 * logs); builds without it use recorder.py.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <stdint.h>
#include <structmember.h>
#include <time.h>

#define CHUNK_STAMPS 8191

typedef struct {
    int64_t event, time_ns;
} Stamp;

typedef struct Chunk {
    struct Chunk *next;
    size_t used;
    Stamp stamps[CHUNK_STAMPS];
} Chunk;

/* One thread's stamps, and whether the mode is off on it. `was_on` is a stack: what the calls of
 * suspend() found, for resume(). */
typedef struct Log {
    struct Log *next;
    unsigned long thread;
    Chunk *first, *current;
    size_t lost;
    unsigned muted;
    unsigned char *was_on;
    size_t suspended, room;
} Log;

typedef struct {
    PyObject_HEAD
    uint64_t id;
    Log *logs;
    PyObject *mode;
    long depth;
    PyObject *functions, *handles;
    /* From torch and recorder.py, see `recorder_new`. */
    PyObject *mode_depth, *push, *pop, *grad_enabled, *tensor, *parameter;
    PyObject *site_of, *unknown, *found, *made;
} Recorder;

/* How a node is found again: from the output along `steps` and its grad_fn, or as the `edge`-th
 * next function of the node that way `base` found. */
typedef struct {
    Py_ssize_t base, edge;
    PyObject *steps, *hook, *node;
} Way;

typedef struct {
    Py_ssize_t size;
    Way ways[];
} Plan;

/* A place in the program that calls of one code come from; `plans` has those of the structure run,
 * in the order in which they ended. */
typedef struct {
    PyObject_HEAD
    int64_t code;
    Py_ssize_t seen, size;
    Plan **plans;
} Site;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Recorder *recorder;
    Site *site;
    PyObject *inner;
} Layer;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Recorder *recorder;
    PyObject *mode;
} Handler;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    Recorder *recorder;
    int64_t event;
} Hook;

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    PyObject *make_dict, *other;
} Registrar;

static PyTypeObject *recorder_type, *site_type, *layer_type, *handler_type, *hook_type;
static PyTypeObject *registrar_type;
static PyObject *s_grad_fn, *s_next_functions, *s_register_prehook, *s_remove;
static PyObject *s_types, *s_args, *s_kwargs;
static uint64_t recorders;

/* Logs --------------------------------------------------------------------------------------- */

/* The id tells a log of this recorder from one of a recorder that is gone. */
static _Thread_local Log *own_log;
static _Thread_local uint64_t own_recorder;

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
    recorder->logs = log;
    return log;
}

static Log *find_log(Recorder *recorder)
{
    unsigned long thread = PyThread_get_thread_ident();
    Log *log = recorder->logs;
    while (log && log->thread != thread)
        log = log->next;
    if (!log)
        log = new_log(recorder, thread);
    own_log = log;
    own_recorder = log ? recorder->id : 0;
    return log;
}

static inline Log *log_of(Recorder *recorder)
{
    return own_recorder == recorder->id ? own_log : find_log(recorder);
}

static int next_chunk(Log *log)
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

static inline void put(Log *log, int64_t event)
{
    struct timespec now;
    if (log->current->used == CHUNK_STAMPS && !next_chunk(log)) {
        log->lost++;
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    Stamp *stamp = &log->current->stamps[log->current->used++];
    stamp->event = event;
    stamp->time_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void empty_log(Log *log)
{
    log->current = log->first;
    log->current->used = 0;
    log->lost = 0;
}

static void free_logs(Recorder *recorder)
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

/* The torch function mode, off and on ---------------------------------------------------------- */

static long stack_depth(Recorder *recorder)
{
    PyObject *depth = PyObject_CallNoArgs(recorder->mode_depth);
    long value = depth ? PyLong_AsLong(depth) : -1;
    Py_XDECREF(depth);
    return value;
}

static int push_mode(Recorder *recorder, PyObject *mode)
{
    PyObject *none = PyObject_CallOneArg(recorder->push, mode);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

/* 1 if the mode was on top and is taken off, 0 if it stays and lets pass, -1 with an error. On a
 * thread with modes of its own another mode can lie at our depth. */
static int switch_off(Recorder *recorder, Log *log)
{
    if (recorder->mode && !log->muted) {
        long depth = stack_depth(recorder);
        if (depth < 0)
            return -1;
        if (depth == recorder->depth) {
            PyObject *top = PyObject_CallNoArgs(recorder->pop);
            if (!top)
                return -1;
            int ours = top == recorder->mode;
            int failed = ours ? 0 : push_mode(recorder, top);
            Py_DECREF(top);
            if (failed)
                return -1;
            if (ours)
                return 1;
        }
    }
    log->muted++;
    return 0;
}

static int switch_on(Recorder *recorder, Log *log, int was_on)
{
    if (was_on)
        return push_mode(recorder, recorder->mode);
    log->muted--;
    return 0;
}

/* Backward nodes of a call -------------------------------------------------------------------- */

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
static int watch_node(Recorder *recorder, PyObject *node, PyObject *hook)
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
static int take_off(PyObject *handle, PyObject *hook)
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
static void adopt(Recorder *recorder, Site *site, PyObject *output)
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

/* Sites ---------------------------------------------------------------------------------------- */

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

static Hook *new_hook(Recorder *recorder, int64_t event);

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

static PyObject *recorder_site(PyObject *self, PyObject *args)
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

/* Events --------------------------------------------------------------------------------------- */

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

/* Objects of the three kinds that are called ----------------------------------------------------- */

#define RELEASE_TYPE(self, free)           \
    do {                                   \
        PyTypeObject *type = Py_TYPE(self); \
        free;                              \
        type->tp_free(self);               \
        Py_DECREF(type);                   \
    } while (0)

static void site_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    RELEASE_TYPE(self, site_clear(self));
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

static int layer_clear(PyObject *self)
{
    /* The recorder and the site stay: `layer_call` reads them. The bound method is what leads back
     * to the module. */
    Py_XSETREF(((Layer *)self)->inner, Py_NewRef(Py_None));
    return 0;
}

static PyObject *recorder_layer(PyObject *self, PyObject *args)
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
static PyObject *recorder_handler(PyObject *self, PyObject *mode)
{
    Handler *handler = (Handler *)handler_type->tp_alloc(handler_type, 0);
    if (!handler)
        return NULL;
    handler->vectorcall = handler_call;
    handler->recorder = (Recorder *)Py_NewRef(self);
    handler->mode = Py_NewRef(mode);
    return (PyObject *)handler;
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

static Hook *new_hook(Recorder *recorder, int64_t event)
{
    Hook *hook = (Hook *)hook_type->tp_alloc(hook_type, 0);
    if (!hook)
        return NULL;
    hook->vectorcall = hook_call;
    hook->recorder = (Recorder *)Py_NewRef(recorder);
    hook->event = event;
    return hook;
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

static PyObject *new_registrar(PyObject *Py_UNUSED(module), PyObject *args)
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

static PyObject *recorder_hook(PyObject *self, PyObject *event)
{
    long long value = PyLong_AsLongLong(event);
    if (value == -1 && PyErr_Occurred())
        return NULL;
    return (PyObject *)new_hook((Recorder *)self, value);
}

/* The recorder ----------------------------------------------------------------------------------- */

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
        log->muted = log->suspended = 0;
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

static PyObject *bytes_of(Log *log)
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
    return 0;
}

static int recorder_clear(PyObject *self)
{
    Recorder *recorder = (Recorder *)self;
    Py_CLEAR(recorder->mode);
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
    {"empty", recorder_empty, METH_NOARGS, "Forget all stamps; their memory is kept."},
    {"logs", recorder_logs, METH_NOARGS, "(thread, event and time_ns as bytes) of each thread."},
    {"lost", recorder_lost, METH_NOARGS, "Stamps for which there was no memory."},
    {"last", recorder_last, METH_NOARGS, "The last event, None before the first."},
    {NULL, NULL, 0, NULL}};

static PyMethodDef site_methods[] = {
    {"new_run", site_new_run, METH_NOARGS, "Count calls from zero again."},
    {NULL, NULL, 0, NULL}};

#define VECTORCALL(type) \
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(type, vectorcall), READONLY, NULL}

static PyMemberDef site_members[] = {
    {"code", T_LONGLONG, offsetof(Site, code), READONLY, "What the stamps of its calls say."},
    {NULL, 0, 0, 0, NULL}};
static PyMemberDef layer_members[] = {VECTORCALL(Layer), {NULL, 0, 0, 0, NULL}};
static PyMemberDef registrar_members[] = {VECTORCALL(Registrar), {NULL, 0, 0, 0, NULL}};
static PyMemberDef hook_members[] = {VECTORCALL(Hook), {NULL, 0, 0, 0, NULL}};
static PyMemberDef handler_members[] = {
    VECTORCALL(Handler),
    {"__self__", T_OBJECT, offsetof(Handler, mode), READONLY, NULL},
    {NULL, 0, 0, 0, NULL}};

#define COMMON (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC)
#define CALLED (COMMON | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION)

static PyType_Slot recorder_slots[] = {
    {Py_tp_new, recorder_new}, {Py_tp_methods, recorder_methods},
    {Py_tp_traverse, recorder_traverse}, {Py_tp_clear, recorder_clear},
    {Py_tp_dealloc, recorder_dealloc}, {0, NULL}};
static PyType_Slot site_slots[] = {
    {Py_tp_methods, site_methods}, {Py_tp_members, site_members},
    {Py_tp_traverse, site_traverse}, {Py_tp_clear, site_clear},
    {Py_tp_dealloc, site_dealloc}, {0, NULL}};
static PyType_Slot layer_slots[] = {
    {Py_tp_members, layer_members}, {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, layer_traverse}, {Py_tp_clear, layer_clear},
    {Py_tp_dealloc, layer_dealloc}, {0, NULL}};
static PyType_Slot handler_slots[] = {
    {Py_tp_members, handler_members}, {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, handler_traverse}, {Py_tp_clear, handler_clear},
    {Py_tp_dealloc, handler_dealloc}, {0, NULL}};
static PyType_Slot hook_slots[] = {
    {Py_tp_members, hook_members}, {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, hook_traverse}, {Py_tp_dealloc, hook_dealloc}, {0, NULL}};
static PyType_Slot registrar_slots[] = {
    {Py_tp_members, registrar_members}, {Py_tp_call, PyVectorcall_Call},
    {Py_tp_traverse, registrar_traverse}, {Py_tp_dealloc, registrar_dealloc}, {0, NULL}};

#define NAMED(name) "xsp.levels.layer._hotpath." name

static PyType_Spec recorder_spec = {
    NAMED("Recorder"), sizeof(Recorder), 0, COMMON | Py_TPFLAGS_BASETYPE, recorder_slots};
static PyType_Spec site_spec = {
    NAMED("Site"), sizeof(Site), 0, COMMON | Py_TPFLAGS_DISALLOW_INSTANTIATION, site_slots};
static PyType_Spec layer_spec = {NAMED("Layer"), sizeof(Layer), 0, CALLED, layer_slots};
static PyType_Spec handler_spec = {NAMED("Handler"), sizeof(Handler), 0, CALLED, handler_slots};
static PyType_Spec hook_spec = {NAMED("Hook"), sizeof(Hook), 0, CALLED, hook_slots};
static PyType_Spec registrar_spec = {
    NAMED("Registrar"), sizeof(Registrar), 0, CALLED, registrar_slots};

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
