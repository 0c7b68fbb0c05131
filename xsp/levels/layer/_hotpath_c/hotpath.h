/* What a timed run does at every module call, functional call and backward node: recorder.py in C.
 *
 * A stamp is an event and a time, 16 bytes in a chunk of the thread's own log. Chunks are kept from
 * run to run, so once a run has been made nothing is allocated here, and no thread waits for
 * another. The interpreter's lock guards what threads share (the sites' counters, the list of
 * logs); builds without it use recorder.py.
 */
#ifndef XSP_HOTPATH_H
#define XSP_HOTPATH_H
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

typedef struct Site Site;

/* A call of a binding that a run makes: the layers that begin before it and end after it. The
 * latter's output is what it gives, or a tuple in which that is the `item`. */
typedef struct {
    int binding;
    Site *begins, *ends;
    Py_ssize_t item;
} Step;

typedef struct {
    Py_ssize_t size;
    Step each[];
} Steps;

/* One thread's stamps, and whether the mode is off on it: taken off so often, and let pass so often
 * where it stays. `was_on` is a stack: what the calls of suspend() found, for resume().
 *
 * `at` is the step that comes next; once another binding was called instead, none does. `inside` a
 * call of a binding others are not seen; `within` a function in Python, which calls several, they
 * are. `given` is what the last one gave, to be compared only. */
typedef struct Log {
    struct Log *next;
    unsigned long thread;
    Chunk *first, *current;
    size_t lost;
    unsigned muted, off;
    unsigned char *was_on;
    size_t suspended, room;
    const Steps *steps;
    Py_ssize_t at;
    int inside, within, strayed, strayed_to;
    PyObject *given;
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
    /* Calls of bindings that a run makes on the thread that began it, and on another one. */
    Steps *starting, *other;
    unsigned long thread;
    int is_recording, is_following;
    int64_t stray_code;
} Recorder;

/* A call of a binding that is under way and watched. */
typedef struct {
    Recorder *recorder;
    Log *log;
    const Step *step;
    int binding;
} Call;

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
struct Site {
    PyObject_HEAD
    int64_t code;
    Py_ssize_t seen, size;
    Plan **plans;
};

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

/* The thread's log, and the id of the recorder that it belongs to, which may be gone. One variable:
 * a thread's own are looked up at each use. */
typedef struct {
    Log *log;
    uint64_t recorder;
} Own;
extern _Thread_local Own own;

/* logs.c */
Log *find_log(Recorder *recorder);
int next_chunk(Log *log);
void empty_log(Log *log);
void free_logs(Recorder *recorder);
PyObject *bytes_of(Log *log);

/* mode.c */
long stack_depth(Recorder *recorder);
int push_mode(Recorder *recorder, PyObject *mode);
int switch_off(Recorder *recorder, Log *log);
int switch_on(Recorder *recorder, Log *log, int was_on);

/* nodes.c */
int watch_node(Recorder *recorder, PyObject *node, PyObject *hook);
int take_off(PyObject *handle, PyObject *hook);
void adopt(Recorder *recorder, Site *site, PyObject *output);

/* calls.c */
int call_begins(int binding, Call *call);
void call_ends(Call *call, PyObject *result);
void begin_steps(Recorder *recorder);
void take_steps(Recorder *recorder, Log *log);
void forget_steps(Recorder *recorder);
int visit_steps(const Steps *steps, visitproc visit, void *arg);
PyObject *recorder_expect(PyObject *self, PyObject *args);
PyObject *recorder_watch_calls(PyObject *self, PyObject *is_recording);
PyObject *recorder_begin_calls(PyObject *self, PyObject *none);
PyObject *recorder_end_calls(PyObject *self, PyObject *none);
PyObject *recorder_passed(PyObject *self, PyObject *args);
PyObject *recorder_row_begins(PyObject *self, PyObject *row);
PyObject *recorder_item_of(PyObject *self, PyObject *result);
PyObject *recorder_row_ends(PyObject *self, PyObject *inside);
PyObject *recorder_strayed(PyObject *self, PyObject *none);
PyObject *recorder_sees(PyObject *self, PyObject *none);
PyObject *recorder_anew(PyObject *self, PyObject *none);
PyObject *recorder_as_before(PyObject *self, PyObject *args);

/* bindings.c */
PyObject *binding_of(PyObject *module, PyObject *callable);
PyObject *item_access(PyObject *module, PyObject *args);
PyObject *open_bindings(PyObject *module, PyObject *types);
PyObject *close_bindings(PyObject *module, PyObject *none);
PyObject *bindings_are_open(PyObject *module, PyObject *none);

/* hook.c, site.c, layer.c, handler.c: methods of the recorder that make objects, and the module's
 * function. */
Hook *new_hook(Recorder *recorder, int64_t event);
PyObject *recorder_hook(PyObject *self, PyObject *event);
PyObject *recorder_site(PyObject *self, PyObject *args);
PyObject *recorder_layer(PyObject *self, PyObject *args);
PyObject *recorder_handler(PyObject *self, PyObject *mode);
PyObject *new_registrar(PyObject *module, PyObject *args);

/* module.c makes these when the module is imported. */
extern PyTypeObject *recorder_type, *site_type, *layer_type, *handler_type, *hook_type;
extern PyTypeObject *registrar_type;
extern PyType_Spec recorder_spec, site_spec, layer_spec, handler_spec, hook_spec, registrar_spec;
extern PyObject *s_grad_fn, *s_next_functions, *s_register_prehook, *s_remove;
extern PyObject *s_types, *s_args, *s_kwargs;

#define NAMED(name) "xsp.levels.layer._hotpath." name
#define COMMON (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC)
#define CALLED (COMMON | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION)
#define VECTORCALL(type) \
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(type, vectorcall), READONLY, NULL}

#define RELEASE_TYPE(self, free)           \
    do {                                   \
        PyTypeObject *type = Py_TYPE(self); \
        free;                              \
        type->tp_free(self);               \
        Py_DECREF(type);                   \
    } while (0)

static inline Log *log_of(Recorder *recorder)
{
    const Own *mine = &own;
    return mine->recorder == recorder->id ? mine->log : find_log(recorder);
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

#endif
