/* CUPTI Activity buffers: lent to CUPTI, taken back raw, decoded to contiguous arrays after the run.
 *
 * While the traced program runs, only the two buffer callbacks and the clock run here. They touch no Python object and
 * never wait for the GIL: CUPTI calls them with a lock of its own held, so a callback that waits for the GIL while a
 * thread with the GIL waits inside CUPTI would be a deadlock.
 *
 * CUPTI's functions arrive as pointers from the copy of libcupti that the process already loaded; nothing here is
 * compiled or linked against CUDA.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

enum {
    CUPTI_SUCCESS = 0,
    CUPTI_ERROR_MAX_LIMIT_REACHED = 12, /* the regular end of a buffer */
    BUFFER_ALIGNMENT = 4096,
    KIND_TABLE_SIZE = 256, /* activity kinds are small enumerators; larger ones are counted as unknown */
    MAX_BUFFERS = 4096,
    NO_SLOT = -1,
};

enum buffer_state { FREE, LENT, FULL };

struct buffer {
    uint8_t *data;
    size_t valid_bytes;
    enum buffer_state state;
};

/* Buffers are found by address, not by a header in front of the data: after another tool registered its callbacks,
 * CUPTI may hand one tool's buffer to the other's callback. */
static struct {
    pthread_mutex_t lock;
    struct buffer buffers[MAX_BUFFERS];
    size_t count, limit, keep, buffer_bytes;
    uint64_t declined, foreign;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* What xsp_activity_state tells; mirrored by `State` in activity.py. */
struct activity_state {
    uint64_t lent, full, declined, foreign;
};

/* One kind of record to keep; mirrored by `Slot` in activity.py. */
struct activity_slot {
    uint32_t kind, record_bytes;
    uint8_t *records;  /* room for `capacity` records */
    uint64_t capacity, count;
};

/* What went wrong while decoding; mirrored by `Faults` in activity.py. */
struct activity_faults {
    uint64_t short_records;  /* extent in the buffer below the expected size: not copied */
    uint64_t unknown_kinds;  /* kinds that nobody asked for */
    uint64_t no_room;        /* beyond `capacity` */
    uint64_t broken_buffers; /* the walk ended otherwise than at the end of the buffer */
};

typedef int (*next_record_fn)(uint8_t *buffer, size_t valid_bytes, uint32_t **record);

static struct buffer *add_buffer(void) {
    uint8_t *data = pool.count < pool.limit ? aligned_alloc(BUFFER_ALIGNMENT, pool.buffer_bytes) : NULL;
    if (!data)
        return NULL;
    pool.buffers[pool.count] = (struct buffer){.data = data, .state = FREE};
    return &pool.buffers[pool.count++];
}

static struct buffer *find_state(enum buffer_state state) {
    for (size_t i = 0; i < pool.count; i++)
        if (pool.buffers[i].state == state)
            return &pool.buffers[i];
    return NULL;
}

static struct buffer *find_address(const uint8_t *data) {
    for (size_t i = 0; i < pool.count; i++)
        if (pool.buffers[i].data == data)
            return &pool.buffers[i];
    return NULL;
}

/* Frees what lies idle at the end of the pool beyond `keep` buffers; those in use stay where they are. */
static void trim(size_t keep) {
    while (pool.count > keep && pool.buffers[pool.count - 1].state == FREE)
        free(pool.buffers[--pool.count].data);
}

/* Has `keep` buffers ready, their pages already touched so that no page fault falls into the traced run. The pool grows
 * to `limit`. The size cannot change while a buffer is in use (EBUSY). Returns 0 or an errno value. */
EXPORT int xsp_activity_prepare(size_t buffer_bytes, size_t keep, size_t limit) {
    if (!buffer_bytes || buffer_bytes % BUFFER_ALIGNMENT || keep > limit || limit > MAX_BUFFERS)
        return EINVAL;
    int error = 0;
    pthread_mutex_lock(&pool.lock);
    trim(pool.buffer_bytes == buffer_bytes ? keep : 0);
    if (pool.count && pool.buffer_bytes != buffer_bytes) {
        error = EBUSY;
    } else {
        pool.buffer_bytes = buffer_bytes;
        pool.keep = keep;
        pool.limit = limit;
        pool.declined = pool.foreign = 0;
        while (!error && pool.count < keep) {
            struct buffer *added = add_buffer();
            if (added)
                memset(added->data, 0, buffer_bytes);
            else
                error = ENOMEM;
        }
    }
    pthread_mutex_unlock(&pool.lock);
    return error;
}

/* CUpti_BuffersCallbackRequestFunc. Beyond the limit no buffer is given: CUPTI then drops records and counts them. */
EXPORT void xsp_activity_buffer_requested(uint8_t **data, size_t *size, size_t *max_records) {
    pthread_mutex_lock(&pool.lock);
    struct buffer *buffer = find_state(FREE);
    if (!buffer)
        buffer = add_buffer();
    if (buffer)
        buffer->state = LENT;
    else
        pool.declined++;
    *data = buffer ? buffer->data : NULL;
    *size = buffer ? pool.buffer_bytes : 0;
    *max_records = 0;
    pthread_mutex_unlock(&pool.lock);
}

/* CUpti_BuffersCallbackCompleteFunc. Context and stream are always NULL and 0 since CUDA 6.0, so they are not kept. */
EXPORT void xsp_activity_buffer_completed(void *context, uint32_t stream, uint8_t *data, size_t size, size_t valid) {
    (void)context, (void)stream;
    pthread_mutex_lock(&pool.lock);
    struct buffer *buffer = find_address(data);
    if (!buffer || buffer->state != LENT) {
        pool.foreign++;
    } else {
        buffer->valid_bytes = valid <= size && valid <= pool.buffer_bytes ? valid : 0;
        buffer->state = buffer->valid_bytes ? FULL : FREE;
    }
    pthread_mutex_unlock(&pool.lock);
}

static uint64_t read_clock(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* CUpti_TimestampCallbackFunc: the clock of time.perf_counter_ns. */
EXPORT uint64_t xsp_activity_clock_monotonic(void) {
    return read_clock(CLOCK_MONOTONIC);
}

/* CUpti_TimestampCallbackFunc: the clock that CUPTI uses on Linux when nobody registers one. CUPTI refuses NULL, so
 * putting this one in place is how a session ends without leaving its own clock to the next tool. */
EXPORT uint64_t xsp_activity_clock_realtime(void) {
    return read_clock(CLOCK_REALTIME);
}

EXPORT void xsp_activity_state(struct activity_state *state) {
    *state = (struct activity_state){0};
    pthread_mutex_lock(&pool.lock);
    for (size_t i = 0; i < pool.count; i++) {
        state->lent += pool.buffers[i].state == LENT;
        state->full += pool.buffers[i].state == FULL;
    }
    state->declined = pool.declined;
    state->foreign = pool.foreign;
    pthread_mutex_unlock(&pool.lock);
}

/* Bytes of records waiting to be decoded: an upper bound for the room that any one kind needs. */
EXPORT uint64_t xsp_activity_pending_bytes(void) {
    uint64_t bytes = 0;
    pthread_mutex_lock(&pool.lock);
    for (size_t i = 0; i < pool.count; i++)
        bytes += pool.buffers[i].state == FULL ? pool.buffers[i].valid_bytes : 0;
    pthread_mutex_unlock(&pool.lock);
    return bytes;
}

static void keep_record(const uint8_t *record, size_t extent, const int16_t *slot_of_kind, struct activity_slot *slots,
                        struct activity_faults *faults) {
    uint32_t kind;
    memcpy(&kind, record, sizeof kind);
    int slot_number = kind < KIND_TABLE_SIZE ? slot_of_kind[kind] : NO_SLOT;
    if (slot_number == NO_SLOT) {
        faults->unknown_kinds++;
        return;
    }
    struct activity_slot *slot = &slots[slot_number];
    if (extent < slot->record_bytes)
        faults->short_records++;
    else if (slot->count == slot->capacity)
        faults->no_room++;
    else
        memcpy(slot->records + slot->count++ * slot->record_bytes, record, slot->record_bytes);
}

static int is_within(const uint8_t *record, const uint8_t *least, const uint8_t *end) {
    return record >= least && record < end && (size_t)(end - record) >= sizeof(uint32_t);
}

/* A record is copied only once its successor is known: the distance is its true size in this libcupti. A record that
 * does not lie behind the one before it, with its kind inside the buffer, ends the walk as an error does. */
static void walk(next_record_fn next_record, const struct buffer *buffer, const int16_t *slot_of_kind,
                 struct activity_slot *slots, struct activity_faults *faults) {
    const uint8_t *end = buffer->data + buffer->valid_bytes, *least = buffer->data;
    uint32_t *record = NULL;
    int result = next_record(buffer->data, buffer->valid_bytes, &record);
    while (result == CUPTI_SUCCESS && is_within((const uint8_t *)record, least, end)) {
        const uint8_t *current = (const uint8_t *)record;
        least = current + sizeof(uint32_t);
        result = next_record(buffer->data, buffer->valid_bytes, &record);
        const uint8_t *next = result == CUPTI_SUCCESS ? (const uint8_t *)record : end;
        if (next == end || is_within(next, least, end))
            keep_record(current, (size_t)(next - current), slot_of_kind, slots, faults);
    }
    faults->broken_buffers += result != CUPTI_ERROR_MAX_LIMIT_REACHED;
}

static void give_back(struct buffer *buffer) {
    pthread_mutex_lock(&pool.lock);
    buffer->state = FREE;
    trim(pool.keep);
    pthread_mutex_unlock(&pool.lock);
}

/* Copies the records of completed buffers, grouped by kind, and gives the buffers back to the pool, up to `room` bytes;
 * a buffer completed since the caller made room waits for the next call. One thread at a time; CUPTI may request and
 * complete other buffers meanwhile. `slots[i].count` grows by what was copied. */
EXPORT void xsp_activity_decode(next_record_fn next_record, uint64_t room, struct activity_slot *slots,
                                size_t slot_count, struct activity_faults *faults) {
    int16_t slot_of_kind[KIND_TABLE_SIZE];
    memset(slot_of_kind, 0xff, sizeof slot_of_kind);
    for (size_t i = 0; i < slot_count; i++)
        if (slots[i].kind < KIND_TABLE_SIZE)
            slot_of_kind[slots[i].kind] = (int16_t)i;
    for (;;) {
        pthread_mutex_lock(&pool.lock);
        struct buffer *buffer = find_state(FULL);
        pthread_mutex_unlock(&pool.lock);
        if (!buffer || buffer->valid_bytes > room)
            return;
        room -= buffer->valid_bytes;
        walk(next_record, buffer, slot_of_kind, slots, faults);
        give_back(buffer);
    }
}
