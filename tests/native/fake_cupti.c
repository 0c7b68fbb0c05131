/* A libcupti for machines without a GPU: the Activity API's behaviour, with records that the test supplies.
 *
 * Records are queued with fake_emit. Like CUPTI, the library asks for buffers, fills them and returns them from a thread
 * of its own, drops and counts what finds no room, records only kinds that are enabled, refuses a NULL clock, and sees
 * records in a buffer by their kinds' sizes.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, INVALID_PARAMETER = 1, INVALID_OPERATION = 7, MAX_LIMIT_REACHED = 12, INVALID_KIND = 21, KINDS = 64 };

typedef void (*request_fn)(uint8_t **, size_t *, size_t *);
typedef void (*complete_fn)(void *, uint32_t, uint8_t *, size_t, size_t);
typedef uint64_t (*clock_fn)(void);

static request_fn request;
static complete_fn complete;
static clock_fn clock_callback;
static int enabled[KINDS], enable_result[KINDS], thread_id_type, flush_result, clocks_registered;
static size_t record_bytes[KINDS], dropped, filled, room;
static uint8_t *buffer;
static uint8_t *queue;
static size_t queued;

/* ---- what a test sets up and looks at ---- */

EXPORT void fake_reset(void) {
    request = NULL, complete = NULL, clock_callback = NULL;
    memset(enabled, 0, sizeof enabled);
    memset(enable_result, 0, sizeof enable_result);
    thread_id_type = flush_result = clocks_registered = 0;
    dropped = filled = room = queued = 0;
    buffer = NULL;
}

EXPORT void fake_record_bytes(uint32_t kind, size_t bytes) { record_bytes[kind] = bytes; }
EXPORT void fake_enable_result(uint32_t kind, int result) { enable_result[kind] = result; }
EXPORT void fake_flush_result(int result) { flush_result = result; }
EXPORT void fake_thread_id_type(int type) { thread_id_type = type; }
EXPORT int fake_clocks_registered(void) { return clocks_registered; }

EXPORT int fake_enabled_count(void) {
    int count = 0;
    for (int kind = 0; kind < KINDS; kind++)
        count += enabled[kind];
    return count;
}

/* Queues one record; it goes into a buffer at the next fake_deliver or flush, if its kind was enabled when emitted. */
EXPORT void fake_emit(const uint8_t *record, size_t bytes) {
    if (!enabled[*(const uint32_t *)record])
        return;
    queue = realloc(queue, queued + bytes);
    memcpy(queue + queued, record, bytes);
    queued += bytes;
}

static void return_buffer(void) {
    if (buffer)
        complete(NULL, 0, buffer, room, filled);
    buffer = NULL;
    filled = room = 0;
}

static void put(const uint8_t *record, size_t bytes) {
    if (buffer && filled + bytes > room)
        return_buffer();
    if (!buffer) {
        size_t limit = 0;
        request(&buffer, &room, &limit);
    }
    if (!buffer) {
        dropped++;
        return;
    }
    memcpy(buffer + filled, record, bytes);
    filled += bytes;
}

static void *work(void *return_all) {
    for (size_t at = 0; at < queued;) {
        size_t bytes = record_bytes[*(uint32_t *)(queue + at)];
        put(queue + at, bytes);
        at += bytes;
    }
    queued = 0;
    if (return_all)
        return_buffer();
    return NULL;
}

static void run_worker(int return_all) {
    pthread_t worker;
    pthread_create(&worker, NULL, work, return_all ? &queued : NULL);
    pthread_join(worker, NULL);
}

/* Delivers without being asked, as CUPTI does when a buffer is full, and after a flush when it is late. */
EXPORT void fake_deliver(void) { run_worker(1); }

/* Hands over a buffer that was never requested from this client. */
EXPORT void fake_return_foreign_buffer(void) {
    static uint8_t foreign[64];
    complete(NULL, 0, foreign, sizeof foreign, sizeof foreign);
}

/* ---- the Activity API ---- */

EXPORT int cuptiGetVersion(uint32_t *version) { return *version = 130001, SUCCESS; }

EXPORT int cuptiGetTimestamp(uint64_t *stamp) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *stamp = clock_callback ? clock_callback() : (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    return SUCCESS;
}

EXPORT int cuptiGetResultString(int result, const char **text) {
    *text = result == 35   ? "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"
            : result == 39 ? "CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED"
                           : "CUPTI_ERROR_UNKNOWN";
    return SUCCESS;
}

EXPORT int cuptiGetThreadIdType(int *type) { return *type = thread_id_type, SUCCESS; }

EXPORT int cuptiActivityRegisterCallbacks(request_fn requested, complete_fn completed) {
    if (!requested || !completed)
        return INVALID_PARAMETER;
    request = requested, complete = completed;
    return SUCCESS;
}

EXPORT int cuptiActivityRegisterTimestampCallback(clock_fn clock) {
    if (!clock)
        return INVALID_PARAMETER;
    clock_callback = clock;
    clocks_registered++;
    return SUCCESS;
}

EXPORT int cuptiActivityEnable(uint32_t kind) {
    if (!enable_result[kind])
        enabled[kind] = 1;
    return enable_result[kind];
}

EXPORT int cuptiActivityDisable(uint32_t kind) { return enabled[kind] = 0, SUCCESS; }

static uint8_t silent[2][4096];

EXPORT int fake_silent_count(void) {
    int count = 0;
    for (int i = 0; i < 4096; i++)
        count += silent[0][i] + silent[1][i];
    return count;
}

EXPORT int fake_is_silent(int domain, int cbid) { return silent[domain][cbid]; }

EXPORT int cuptiActivityEnableRuntimeApi(uint32_t cbid, uint8_t enable) { return silent[0][cbid] = !enable, SUCCESS; }

EXPORT int cuptiActivityEnableDriverApi(uint32_t cbid, uint8_t enable) { return silent[1][cbid] = !enable, SUCCESS; }

EXPORT int cuptiActivityFlushAll(uint32_t forced) {
    (void)forced;
    if (!request)
        return INVALID_OPERATION;
    if (!flush_result)
        run_worker(1);
    return flush_result;
}

EXPORT int cuptiActivityGetNumDroppedRecords(void *context, uint32_t stream, size_t *count) {
    (void)context, (void)stream;
    *count = dropped;
    dropped = 0;
    return SUCCESS;
}

EXPORT int cuptiActivityGetNextRecord(uint8_t *start, size_t valid, uint8_t **record) {
    uint8_t *next = *record ? *record + record_bytes[*(uint32_t *)*record] : start;
    if (next >= start + valid)
        return MAX_LIMIT_REACHED;
    uint32_t kind = *(uint32_t *)next;
    if (kind >= KINDS || !record_bytes[kind] || next + record_bytes[kind] > start + valid)
        return INVALID_KIND;
    *record = next;
    return SUCCESS;
}
