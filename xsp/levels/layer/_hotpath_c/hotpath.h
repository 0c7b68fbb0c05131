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
