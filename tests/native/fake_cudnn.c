/* The part of cuDNN that a plan is decoded with; attribute numbers are those of cudnn_graph.h of cuDNN 9. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { ENGINE = 2, CONFIG = 3, PLAN = 5 };
typedef struct { int kind; int64_t engine; const char *json; } descriptor;

int64_t fake_descriptors, fake_json_reads;
static const char plan_json[] = FAKE_PLAN_JSON;
descriptor fake_plan = {PLAN, 62, plan_json}, fake_broken_plan = {PLAN, 0, 0};

int cudnnBackendCreateDescriptor(int kind, void **out) {
  descriptor *d = calloc(1, sizeof *d);
  d->kind = kind;
  fake_descriptors++;
  *out = d;
  return 0;
}

int cudnnBackendDestroyDescriptor(void *d) {
  free(d);
  fake_descriptors--;
  return 0;
}

int cudnnBackendGetAttribute(void *from, int attribute, int type, int64_t room, int64_t *count, void *out) {
  descriptor *d = from;
  if (d->kind == PLAN && !d->json) return 3000; /* CUDNN_STATUS_NOT_SUPPORTED */
  if (attribute == 405 && type == 24 && d->kind == PLAN) {
    *count = (int64_t)strlen(d->json);
    if (room) memcpy(out, d->json, (size_t)room), fake_json_reads++;
    return 0;
  }
  if (attribute == 1301 && type == 3 && d->kind == ENGINE) {
    *count = 1;
    *(int64_t *)out = d->engine;
    return 0;
  }
  int wanted = attribute == 401 && d->kind == PLAN ? CONFIG : attribute == 300 && d->kind == CONFIG ? ENGINE : 0;
  descriptor *inner = wanted && type == 15 ? *(descriptor **)out : 0;
  if (!inner || inner->kind != wanted) return 2000; /* CUDNN_STATUS_BAD_PARAM */
  inner->engine = d->engine;
  *count = 1;
  return 0;
}

int cudnnBackendExecute(void *handle, void *plan, void *variant_pack) {
  (void)handle, (void)plan, (void)variant_pack;
  return 0;
}
