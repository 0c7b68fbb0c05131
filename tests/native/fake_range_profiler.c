/* A libcupti and a libcuda for machines without a GPU: the Range Profiler, the Profiler Host, callbacks and launches.
 *
 * Kernels are launched with fake_launch. Like CUPTI with auto range and user replay, the library measures kernels between
 * start and stop, says after which stop every pass was there, and fills the image that it was given when it decodes. It
 * refuses structures that are too short, metrics that the chip does not have, calls out of order, and whatever a test
 * makes it refuse.
 *
 * The chip has the counters alpha, beta and gamma; gamma shares hardware with alpha, and slow needs two passes alone;
 * sass_delta is counted by code that is added to kernels. What a kernel counts follows from its name (alpha is the
 * name's length), so that a mix-up shows. A kernel that starts with empty caches counts COLD more of beta; a kernel of
 * the driver empties them, and any kernel fills them.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, INVALID_PARAMETER = 1, INVALID_OPERATION = 7, OUT_OF_MEMORY = 8, NOT_INITIALIZED = 15 };
enum { MULTIPLE_SUBSCRIBERS = 39 };
enum { ROOM = 4096, SUPPORTED = 3, METRICS = 7, COLD = 1000, LAUNCH = 307, CONTEXT = 77, CONTEXT_ID = 1 };

static const char *const chip_metrics[METRICS] = {
    "unit__alpha.sum",      "unit__beta.sum",        "unit__gamma.sum",         "unit__slow.sum",
    "unit__sass_delta.sum", "sm__ctas_launched.sum", "smsp__sass_inst_executed.sum",
};
static const char *base_metrics[METRICS] = {
    "unit__alpha", "unit__beta", "unit__gamma", "unit__slow", "unit__sass_delta", "sm__ctas_launched",
    "smsp__sass_inst_executed",
};

struct image {
    uint64_t magic, ranges, room;
    double values[ROOM][METRICS];
};

struct config {
    uint64_t magic, passes, has[METRICS];
};

static struct config config_in_use;
static struct image *image_in_use;
static double pending[ROOM][METRICS];
static uint64_t pending_count, passes_done;
static int initialized, enabled, started, configured, hosts;
static int support[7], refuse_enable, refuse_start, refuse_decode, drop_all;
static double noise;
static int pushed, blind, caches_empty, other_listener, refuse_synchronize, driver_held;
static void (*listener)(void *, int, uint32_t, const int *);
static uint8_t listened[1024];

/* ---- what a test sets up and looks at ---- */

EXPORT void fake_reset(void) {
    initialized = enabled = started = configured = hosts = 0;
    refuse_enable = refuse_start = refuse_decode = drop_all = 0;
    pending_count = passes_done = 0;
    noise = 0;
    pushed = blind = caches_empty = other_listener = refuse_synchronize = driver_held = 0;
    listener = NULL;
    memset(listened, 0, sizeof listened);
    for (int i = 0; i < 7; i++)
        support[i] = SUPPORTED;
}

EXPORT void fake_refuse_enable(int result) { refuse_enable = result; }
EXPORT void fake_refuse_start(int result) { refuse_start = result; }
EXPORT void fake_refuse_decode(int result) { refuse_decode = result; }
EXPORT void fake_noise(double apart) { noise = apart; }
EXPORT void fake_drop(int ranges) { drop_all = ranges; }
EXPORT void fake_support(int feature, int level) { support[feature] = support[0] = level; }

/* Everything that a client must have given back. */
EXPORT int fake_held(void) { return initialized + enabled + started + hosts + !!listener + driver_held + pushed; }

EXPORT void fake_other_listener(void) { other_listener = 1; }
EXPORT void fake_refuse_synchronize(int result) { refuse_synchronize = result; }

static void tell(int site) {
    if (listener && listened[LAUNCH])
        listener(NULL, 1, LAUNCH, &site);
}

static void count(const char *kernel, uint64_t blocks, int instrumented, int cold) {
    static double sign = 1;
    if (!started || pending_count == ROOM)
        return;
    sign = pending_count ? sign : -sign;
    double *values = pending[pending_count++];
    values[0] = (double)strlen(kernel);
    values[1] = (double)kernel[0] + sign * noise + (cold ? COLD : 0);
    values[2] = values[0] * 1000;
    values[3] = 0.5;
    values[4] = instrumented ? 7 : 0;
    values[5] = (double)blocks;
    values[6] = instrumented ? 70 : 0;
}

/* A program runs a kernel. Alternate runs count beta a little more and a little less, by `noise`. */
EXPORT void fake_launch(const char *kernel, uint64_t blocks, int instrumented) {
    tell(0);
    int cold = caches_empty;
    caches_empty = 0;
    count(kernel, blocks, instrumented, cold);
    tell(1);
}

/* A launch of which CUPTI does not tell. */
EXPORT void fake_launch_silently(const char *kernel, uint64_t blocks) { count(kernel, blocks, 1, 0); }

/* ---- general ---- */

struct parameters {
    size_t size;
    void *reserved;
};

#define REQUIRE(condition, result) \
    do { \
        if (!(condition)) \
            return result; \
    } while (0)
#define REQUIRE_SIZE(p) REQUIRE((p)->base.size >= sizeof *(p) - 7 && !(p)->base.reserved, INVALID_PARAMETER)

EXPORT int cuptiGetResultString(int result, const char **text) {
    *text = result == INVALID_PARAMETER   ? "CUPTI_ERROR_INVALID_PARAMETER"
            : result == INVALID_OPERATION ? "CUPTI_ERROR_INVALID_OPERATION"
            : result == 35                ? "CUPTI_ERROR_INSUFFICIENT_PRIVILEGES"
            : result == NOT_INITIALIZED   ? "CUPTI_ERROR_NOT_INITIALIZED"
                                          : "CUPTI_ERROR_UNKNOWN";
    return SUCCESS;
}

/* ---- the device ---- */

EXPORT int cuptiProfilerInitialize(struct parameters *p) {
    REQUIRE(p->size >= sizeof *p, INVALID_PARAMETER);
    return initialized = 1, SUCCESS;
}

EXPORT int cuptiProfilerDeInitialize(struct parameters *p) {
    REQUIRE(p->size >= sizeof *p && !enabled, INVALID_PARAMETER);
    return initialized = 0, SUCCESS;
}

struct chip_name {
    struct parameters base;
    size_t device;
    const char *name;
};

EXPORT int cuptiDeviceGetChipName(struct chip_name *p) {
    REQUIRE(initialized, NOT_INITIALIZED);
    REQUIRE_SIZE(p);
    return p->name = "FAKE100", SUCCESS;
}

struct supported {
    struct parameters base;
    int device, levels[7], api;
};

EXPORT int cuptiProfilerDeviceSupported(struct supported *p) {
    REQUIRE(initialized, NOT_INITIALIZED);
    REQUIRE_SIZE(p);
    memcpy(p->levels, support, sizeof support);
    return SUCCESS;
}

/* ---- the Profiler Host ---- */

struct host_initialize {
    struct parameters base;
    int type;
    const char *chip;
    const uint8_t *availability;
    struct config *host;
};

EXPORT int cuptiProfilerHostInitialize(struct host_initialize *p) {
    REQUIRE_SIZE(p);
    REQUIRE(p->type == 0 && !strcmp(p->chip, "FAKE100"), INVALID_PARAMETER);
    p->host = calloc(1, sizeof *p->host);
    hosts++;
    return SUCCESS;
}

struct host_metrics {
    struct parameters base;
    struct config *host;
    const char **names;
    size_t count;
};

static int metric_index(const char *name) {
    for (int i = 0; i < METRICS; i++)
        if (!strcmp(name, chip_metrics[i]))
            return i;
    return -1;
}

EXPORT int cuptiProfilerHostConfigAddMetrics(struct host_metrics *p) {
    REQUIRE_SIZE(p);
    for (size_t i = 0; i < p->count; i++) {
        REQUIRE(metric_index(p->names[i]) >= 0, INVALID_PARAMETER);
        p->host->has[metric_index(p->names[i])] = 1;
    }
    p->host->magic = 0xc0f;
    const uint64_t *has = p->host->has;
    uint64_t hardware = has[0] || has[1] || has[2] || has[3] || has[5];
    p->host->passes = hardware + (has[0] && has[2]) + has[3] + (has[4] || has[6]);
    return SUCCESS;
}

struct host_base {
    struct parameters base;
    struct config *host;
    int type;
    const char **names;
    size_t count;
};

EXPORT int cuptiProfilerHostGetBaseMetrics(struct host_base *p) {
    REQUIRE_SIZE(p);
    p->names = base_metrics, p->count = p->type == 0 ? METRICS : 0;
    return SUCCESS;
}

struct host_image {
    struct parameters base;
    struct config *host;
    size_t size;
    uint8_t *image;
};

EXPORT int cuptiProfilerHostGetConfigImageSize(struct host_image *p) {
    REQUIRE(p->base.size >= sizeof *p - sizeof p->image, INVALID_PARAMETER);
    return p->size = sizeof(struct config), SUCCESS;
}

EXPORT int cuptiProfilerHostGetConfigImage(struct host_image *p) {
    REQUIRE_SIZE(p);
    REQUIRE(p->size >= sizeof(struct config), INVALID_PARAMETER);
    memcpy(p->image, p->host, sizeof(struct config));
    return SUCCESS;
}

struct passes {
    struct parameters base;
    size_t size;
    const struct config *image;
    size_t passes;
};

EXPORT int cuptiProfilerHostGetNumOfPasses(struct passes *p) {
    REQUIRE_SIZE(p);
    REQUIRE(p->image->magic == 0xc0f, INVALID_PARAMETER);
    return p->passes = p->image->passes, SUCCESS;
}

struct evaluate {
    struct parameters base;
    struct config *host;
    const struct image *image;
    size_t size, range;
    const char **names;
    size_t count;
    double *values;
};

EXPORT int cuptiProfilerHostEvaluateToGpuValues(struct evaluate *p) {
    REQUIRE_SIZE(p);
    REQUIRE(p->image->magic == 0xda7a && p->range < p->image->ranges, INVALID_PARAMETER);
    for (size_t i = 0; i < p->count; i++)
        p->values[i] = blind ? NAN : p->image->values[p->range][metric_index(p->names[i])];
    return SUCCESS;
}

EXPORT int cuptiProfilerHostDeinitialize(struct host_metrics *p) {
    free(p->host);
    hosts--;
    return SUCCESS;
}

/* ---- the Range Profiler ---- */

struct enable {
    struct parameters base;
    void *context, *profiler;
};

EXPORT int cuptiRangeProfilerEnable(struct enable *p) {
    REQUIRE_SIZE(p);
    REQUIRE(initialized && !enabled && p->context, INVALID_PARAMETER);
    REQUIRE(!refuse_enable, refuse_enable);
    p->profiler = &enabled;
    return enabled = 1, SUCCESS;
}

struct ranged {
    struct parameters base;
    void *profiler;
    size_t first, second;
    uint8_t last;
};

EXPORT int cuptiRangeProfilerDisable(struct ranged *p) {
    REQUIRE(p->profiler == &enabled && enabled && !started, INVALID_PARAMETER);
    return enabled = configured = 0, SUCCESS;
}

struct data_size {
    struct parameters base;
    void *profiler;
    const char **names;
    size_t count, ranges;
    uint32_t nodes;
    size_t size;
};

EXPORT int cuptiRangeProfilerGetCounterDataSize(struct data_size *p) {
    REQUIRE_SIZE(p);
    REQUIRE(enabled && p->ranges && p->nodes >= p->ranges && p->ranges <= ROOM, INVALID_PARAMETER);
    return p->size = sizeof(struct image), SUCCESS;
}

struct data_initialize {
    struct parameters base;
    void *profiler;
    size_t size;
    struct image *image;
};

EXPORT int cuptiRangeProfilerCounterDataImageInitialize(struct data_initialize *p) {
    REQUIRE_SIZE(p);
    p->image->magic = 0xda7a, p->image->ranges = 0;
    return SUCCESS;
}

struct set_config {
    struct parameters base;
    void *profiler;
    size_t config_size;
    const struct config *config;
    size_t image_size;
    struct image *image;
    int range, replay;
    size_t ranges;
    uint16_t levels, first_level;
    size_t pass;
    uint16_t target_level;
};

EXPORT int cuptiRangeProfilerSetConfig(struct set_config *p) {
    REQUIRE_SIZE(p);
    REQUIRE(enabled && p->config->magic == 0xc0f && p->image->magic == 0xda7a && p->levels == 1, INVALID_PARAMETER);
    REQUIRE(p->range == 1 && p->replay == 3, INVALID_OPERATION);
    pending_count = passes_done = 0;
    /* Like the real one, it takes another configuration while it is enabled, but counts nothing of it. */
    blind = configured && memcmp(&config_in_use, p->config, sizeof config_in_use);
    config_in_use = *p->config, image_in_use = p->image;
    image_in_use->room = p->ranges;
    return configured = 1, SUCCESS;
}

EXPORT int cuptiRangeProfilerStart(struct ranged *p) {
    REQUIRE(p->profiler == &enabled && enabled && configured && !started, INVALID_OPERATION);
    REQUIRE(!refuse_start, refuse_start);
    pending_count = 0;
    return started = 1, SUCCESS;
}

EXPORT int cuptiRangeProfilerStop(struct ranged *p) {
    REQUIRE(p->profiler == &enabled && started, INVALID_OPERATION);
    p->last = ++passes_done >= config_in_use.passes;
    return started = 0, SUCCESS;
}

EXPORT int cuptiRangeProfilerDecodeData(struct ranged *p) {
    REQUIRE(p->profiler == &enabled && passes_done >= config_in_use.passes && !started, INVALID_OPERATION);
    REQUIRE(!refuse_decode, refuse_decode);
    for (uint64_t i = 0; i < pending_count; i++) {
        if (drop_all || image_in_use->ranges == image_in_use->room)
            p->first++;
        else
            memcpy(image_in_use->values[image_in_use->ranges++], pending[i], sizeof *pending);
    }
    pending_count = 0;
    return SUCCESS;
}

struct data_info {
    struct parameters base;
    const struct image *image;
    size_t size, ranges;
};

EXPORT int cuptiRangeProfilerGetCounterDataInfo(struct data_info *p) {
    REQUIRE_SIZE(p);
    return p->ranges = p->image->ranges, SUCCESS;
}

/* ---- callbacks ---- */

EXPORT int cuptiGetContextId(void *context, uint32_t *id) {
    REQUIRE(context == (void *)CONTEXT, INVALID_PARAMETER);
    return *id = CONTEXT_ID, SUCCESS;
}

EXPORT int cuptiSubscribe(void **subscriber, void (*callback)(void *, int, uint32_t, const int *), void *data) {
    REQUIRE(!other_listener && !listener, MULTIPLE_SUBSCRIBERS);
    REQUIRE(!data, INVALID_PARAMETER);
    return *subscriber = &listener, listener = callback, SUCCESS;
}

EXPORT int cuptiEnableCallback(uint32_t enable, void *subscriber, int domain, uint32_t function) {
    REQUIRE(subscriber == &listener && domain == 1 && function < sizeof listened, INVALID_PARAMETER);
    return listened[function] = (uint8_t)enable, SUCCESS;
}

EXPORT int cuptiUnsubscribe(void *subscriber) {
    REQUIRE(subscriber == &listener, INVALID_PARAMETER);
    return listener = NULL, SUCCESS;
}

/* ---- the driver ---- */

EXPORT int cuGetErrorName(int result, const char **text) {
    return *text = result == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_UNKNOWN", SUCCESS;
}

EXPORT int cuCtxGetCurrent(void **context) { return *context = (void *)CONTEXT, SUCCESS; }
EXPORT int cuCtxPushCurrent_v2(void *context) { return pushed++, context == (void *)CONTEXT ? SUCCESS : 201; }
EXPORT int cuCtxPopCurrent_v2(void **context) { return pushed--, *context = (void *)CONTEXT, SUCCESS; }
EXPORT int fake_pushed(void) { return pushed; }
EXPORT int cuCtxGetDevice(int *device) { return *device = 0, SUCCESS; }
EXPORT int cuCtxSynchronize(void) { return refuse_synchronize; }

EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    REQUIRE(!device && (attribute == 16 || attribute == 38), INVALID_PARAMETER);
    return *value = attribute == 16 ? 3 : 4096, SUCCESS;
}

EXPORT int cuModuleLoadData(void **module, const char *text) {
    REQUIRE(strstr(text, ".target"), INVALID_PARAMETER);
    return *module = &driver_held, driver_held++, SUCCESS;
}

EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) {
    REQUIRE(module == &driver_held && *name, INVALID_PARAMETER);
    return *function = &caches_empty, SUCCESS;
}

EXPORT int cuModuleUnload(void *module) {
    REQUIRE(module == &driver_held, INVALID_PARAMETER);
    return driver_held--, SUCCESS;
}

EXPORT int cuMemAlloc_v2(uint64_t *address, size_t size) {
    REQUIRE(*address = (uint64_t)(uintptr_t)malloc(size), OUT_OF_MEMORY);
    return driver_held++, SUCCESS;
}

EXPORT int cuMemsetD8_v2(uint64_t address, uint8_t value, size_t size) {
    return memset((void *)(uintptr_t)address, value, size), SUCCESS;
}

EXPORT int cuMemFree_v2(uint64_t address) {
    free((void *)(uintptr_t)address);
    return driver_held--, SUCCESS;
}

/* The only kernel of the driver's own reads `arguments[1]` words of 16 bytes from `arguments[0]`. */
EXPORT int cuLaunchKernel(void *function, unsigned blocks, unsigned y, unsigned z, unsigned threads, unsigned ty,
                          unsigned tz, unsigned shared, void *stream, uint64_t **arguments, void **extra) {
    REQUIRE(function == &caches_empty && y == 1 && z == 1 && threads && ty == 1 && tz == 1, INVALID_PARAMETER);
    REQUIRE(!shared && !stream && !extra && *arguments[0] && 16 * *arguments[1] >= 4096, INVALID_PARAMETER);
    tell(0);
    count("read all", blocks, 1, 0);
    caches_empty = 1;
    tell(1);
    return SUCCESS;
}
