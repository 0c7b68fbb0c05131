/* Activity buffers under arbitrary use: a program of requests, completions and decodings read from the fuzzer's input,
 * with a libcupti whose records are that input too, lengths included. For libFuzzer, or with -DREPLAY for a list of
 * files. The sanitizers judge; what is asserted here is what must hold whatever CUPTI does. */
#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct slot {
  uint32_t kind, record_bytes;
  uint8_t *records;
  uint64_t capacity, count;
};
struct state {
  uint64_t lent, full, declined, foreign;
};
struct faults {
  uint64_t short_records, unknown_kinds, no_room, broken_buffers;
};
typedef int (*next_record_fn)(uint8_t *, size_t, uint32_t **);

int xsp_activity_prepare(size_t buffer_bytes, size_t keep, size_t limit);
void xsp_activity_buffer_requested(uint8_t **data, size_t *size, size_t *max_records);
void xsp_activity_buffer_completed(void *context, uint32_t stream, uint8_t *data, size_t size, size_t valid);
void xsp_activity_state(struct state *state);
uint64_t xsp_activity_pending_bytes(void);
void xsp_activity_decode(next_record_fn next_record, uint64_t room, struct slot *slots, size_t slot_count,
                         struct faults *faults);

enum { SUCCESS = 0, MAX_LIMIT_REACHED = 12, PAGE = 4096, LENT = 8 };

static uint8_t *lent[LENT];
static size_t lent_bytes[LENT];
static int lent_count;

struct input {
  const uint8_t *next, *end;
};

static uint32_t take(struct input *input) { return input->next < input->end ? *input->next++ : 0; }

static uint32_t take_four(struct input *input) {
  uint32_t value = 0;
  for (int i = 0; i < 4; i++) value = value << 8 | take(input);
  return value;
}

/* A record is its kind, then the distance to the next one, which can be anything. */
static int hostile_next(uint8_t *buffer, size_t valid, uint32_t **record) {
  if (!*record) {
    if (valid < 8) return MAX_LIMIT_REACHED;
    *record = (uint32_t *)buffer;
    return SUCCESS;
  }
  int32_t distance = 0;
  uint8_t *at = (uint8_t *)*record;
  if (at < buffer || (size_t)(at - buffer) + 8 > valid) return 1;
  memcpy(&distance, at + 4, sizeof distance);
  if (at + distance - buffer >= (ptrdiff_t)valid) return MAX_LIMIT_REACHED;
  if (distance == 13) return 7;
  *record = (uint32_t *)(at + distance);
  return SUCCESS;
}

static void request(void) {
  if (lent_count == LENT) return;
  uint8_t *data = NULL;
  size_t size = 0, records = 1;
  xsp_activity_buffer_requested(&data, &size, &records);
  assert(records == 0 && !data == !size && (uintptr_t)data % PAGE == 0);
  if (!data) return;
  lent[lent_count] = data;
  lent_bytes[lent_count++] = size;
}

static void complete(struct input *input) {
  if (!lent_count) return;
  uint8_t *data = lent[--lent_count];
  size_t size = lent_bytes[lent_count], valid = take_four(input) % (size + 64);
  for (size_t i = 0; i < valid && i < size && input->next < input->end; i++) data[i] = *input->next++;
  xsp_activity_buffer_completed(NULL, 0, data, size, valid);
  if (take(input) & 1) xsp_activity_buffer_completed(NULL, 0, data, size, valid); /* twice: foreign */
}

static void decode(struct input *input) {
  struct slot slots[3];
  uint64_t pending = xsp_activity_pending_bytes();
  for (int i = 0; i < 3; i++) {
    uint32_t bytes = 8 + 4 * (take(input) % 30);
    uint64_t capacity = take(input) & 1 ? pending / bytes : take(input);
    slots[i] = (struct slot){take(input), bytes, malloc(capacity * bytes + 1), capacity, 0};
  }
  struct faults faults = {0};
  uint64_t room = take(input) & 1 ? pending : take_four(input);
  xsp_activity_decode(hostile_next, room, slots, take(input) % 4, &faults);
  for (int i = 0; i < 3; i++) {
    assert(slots[i].count <= slots[i].capacity);
    free(slots[i].records);
  }
}

static void finish(void) {
  while (lent_count) {
    lent_count--;
    xsp_activity_buffer_completed(NULL, 0, lent[lent_count], lent_bytes[lent_count], 0);
  }
  struct faults faults = {0};
  xsp_activity_decode(hostile_next, UINT64_MAX, NULL, 0, &faults);
  struct state state;
  xsp_activity_state(&state);
  assert(state.lent == 0 && state.full == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input input = {data, data + size};
  while (input.next < input.end) switch (take(&input) % 5) {
      case 0: xsp_activity_prepare(PAGE * (take(&input) % 3), take(&input) % 4, take(&input) % 8); break;
      case 1: request(); break;
      case 2: complete(&input); break;
      case 3: decode(&input); break;
      default: xsp_activity_buffer_completed(NULL, 1, (uint8_t *)(uintptr_t)take_four(&input), PAGE, 8);
    }
  finish();
  return 0;
}

#ifdef REPLAY
int main(int count, char **files) {
  static uint8_t bytes[1 << 20];
  for (int i = 1; i < count; i++) {
    FILE *file = fopen(files[i], "rb");
    if (!file) return 2;
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    LLVMFuzzerTestOneInput(bytes, size);
  }
  printf("%d inputs\n", count - 1);
  return 0;
}
#endif
