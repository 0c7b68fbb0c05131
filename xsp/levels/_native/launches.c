/* Hardware counters of chosen kernels: opening and closing a measurement around single launches.
 *
 * CUPTI's Callback API calls xsp_launch at entry and exit of the driver's launch functions, on the launching thread. It
 * counts launches and, around those that the plan wants, makes the calls that start and stop the measurement. It never
 * waits for the GIL. What those calls are is the caller's business: functions of libcupti and their parameters arrive
 * as pointers, so nothing here is compiled or linked against CUDA.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { API_ENTER = 0, API_EXIT = 1, ACTIONS = 2, NAME_BYTES = 24 };

/* CUpti_CallbackData: what CUPTI tells about one API call. */
struct callback_data {
    int site;
    const char *function;
    const void *parameters;
    void *return_value;
    const char *symbol; /* the kernel, mangled */
    void *context;
    uint32_t context_uid;
    uint64_t *correlation_data;
    uint32_t correlation_id;
};

/* A call of libcupti; mirrored by `Action` in launches.py. */
struct action {
    int (*function)(void *parameters);
    void *parameters;
};

/* A plan and what became of it; mirrored by `Watch` in launches.py. Distinct names lie in `names`, those of launch i at
 * name_of[i]; launches beyond `planned` are only counted. */
struct watch {
    const uint8_t *wanted;
    uint32_t *name_of;
    char **names;
    uint64_t planned, name_room;
    struct action open[ACTIONS], close[ACTIONS];
    char *range_name;     /* NULL, or room for NAME_BYTES that receive the launch's number before `open` */
    void *context;        /* the only one measured */
    uint32_t join;        /* leave the measurement open from one wanted launch to the next if they are neighbours */
    uint32_t graph_cbids[2];
    uint64_t launches, opened, graphs, foreign, overlaps, unnamed, name_count;
    int32_t result;         /* of the first action that failed */
    uint32_t is_open;
    uint64_t failed_at;     /* the launch around which it failed */
    void *failed_function;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint32_t in_flight;           /* launches between entry and exit, on any thread */
static _Thread_local uint32_t depth; /* of this thread's launch calls: measuring may launch kernels of its own */

static int act(struct watch *watch, const struct action *actions, uint64_t launch) {
    for (int i = 0; i < ACTIONS && !watch->result; i++) {
        if (!actions[i].function)
            continue;
        watch->result = actions[i].function(actions[i].parameters);
        if (watch->result) {
            watch->failed_at = launch;
            watch->failed_function = (void *)actions[i].function;
        }
    }
    return watch->result;
}

static void close_measurement(struct watch *watch, uint64_t launch) {
    if (watch->is_open)
        act(watch, watch->close, launch);
    watch->is_open = 0;
}

static int wants(const struct watch *watch, uint64_t launch) {
    return launch < watch->planned && watch->wanted[launch];
}

/* Few kernels of a program are distinct, so a list is searched; UINT32_MAX where there is no name or no room. */
static uint32_t name_index(struct watch *watch, const char *symbol) {
    for (uint64_t i = 0; symbol && i < watch->name_count; i++)
        if (!strcmp(watch->names[i], symbol))
            return (uint32_t)i;
    char *copy = symbol && watch->name_count < watch->name_room ? strdup(symbol) : NULL;
    if (!copy) {
        watch->unnamed++;
        return UINT32_MAX;
    }
    watch->names[watch->name_count] = copy;
    return (uint32_t)watch->name_count++;
}

static void enter(struct watch *watch, const struct callback_data *data) {
    uint64_t launch = watch->launches++;
    watch->overlaps += in_flight++ > 0;
    watch->foreign += data->context != watch->context;
    if (launch < watch->planned)
        watch->name_of[launch] = name_index(watch, data->symbol);
    if (!wants(watch, launch) || watch->is_open || watch->result)
        return;
    if (watch->range_name)
        snprintf(watch->range_name, NAME_BYTES, "%llu", (unsigned long long)launch);
    watch->is_open = !act(watch, watch->open, launch);
    watch->opened += watch->is_open;
}

static void leave(struct watch *watch) {
    in_flight--;
    if (!watch->join || !wants(watch, watch->launches))
        close_measurement(watch, watch->launches - 1);
}

/* CUpti_CallbackFunc, `user` being the watch. */
EXPORT void xsp_launch(void *user, int domain, uint32_t cbid, const struct callback_data *data) {
    struct watch *watch = user;
    (void)domain;
    int entry = data->site == API_ENTER, graph = cbid == watch->graph_cbids[0] || cbid == watch->graph_cbids[1];
    if (entry ? depth++ : !depth || --depth)
        return;
    depth++; /* while measuring */
    pthread_mutex_lock(&lock);
    if (graph)
        watch->graphs += (uint64_t)entry;
    else if (entry)
        enter(watch, data);
    else
        leave(watch);
    pthread_mutex_unlock(&lock);
    depth--;
}

/* After the subscriber is gone: closes what an exception left open and forgets launches that never returned. */
EXPORT void xsp_launches_end(struct watch *watch) {
    pthread_mutex_lock(&lock);
    close_measurement(watch, watch->launches - 1);
    in_flight = 0;
    pthread_mutex_unlock(&lock);
    depth = 0;
}

EXPORT void xsp_launches_free_names(struct watch *watch) {
    while (watch->name_count)
        free(watch->names[--watch->name_count]);
}
