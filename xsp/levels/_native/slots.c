/* Binding and writing import slots.
 *
 * xsp_interpose_scan binds each (name, real function) that objects.c found to a stub. xsp_interpose_start writes the
 * stubs' addresses into the slots, xsp_interpose_stop writes back what was there. Slots are read and written only while
 * their object is held (objects.c): then it is whole, stays loaded, and its pages have their final protection, which is
 * read at that moment. Objects that are gone are not held, and not written.
 */
#include "interpose.h"
#include "objects.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static pthread_mutex_t scanning = PTHREAD_MUTEX_INITIALIZER; /* guards everything here but what running stubs read */
static int stub_count, refused, patched_slots;
static unsigned char described[XSP_STUBS];

/* ---- binding slots to stubs ---- */

static int find_or_add_stub(const char *name, void *real) {
  for (int i = 0; i < stub_count; i++)
    if (xsp_stubs[i].real == real && strcmp(xsp_stubs[i].name, name) == 0) return i;
  char *copy = stub_count < XSP_STUBS ? strdup(name) : NULL;
  if (!copy) {
    refused++;
    return -1;
  }
  xsp_stubs[stub_count].name = copy;
  __atomic_store_n(&xsp_stubs[stub_count].real, real, __ATOMIC_RELEASE);
  return stub_count++;
}

static void *stub_entry(int stub) { return xsp_stub_entries + (size_t)stub * XSP_STUB_BYTES; }

static int stub_at(const void *address) {
  ptrdiff_t distance = (const char *)address - xsp_stub_entries;
  return distance >= 0 && distance < XSP_STUBS * XSP_STUB_BYTES ? (int)(distance / XSP_STUB_BYTES) : -1;
}

static int is_function(void *address) {
  Dl_info info;
  const ElfW(Sym) *symbol = NULL;
  if (!dladdr1(address, &info, (void **)&symbol, RTLD_DL_SYMENT) || !symbol) return 1; /* stripped: not told */
  return ELF64_ST_TYPE(symbol->st_info) != STT_OBJECT && ELF64_ST_TYPE(symbol->st_info) != STT_TLS;
}

/* A slot that still leads into its own object's PLT is not resolved yet: do what the dynamic linker would do. */
static void *real_function(const struct object *object, void *value, const char *name, void *handle) {
  if (value && ((uintptr_t)value < object->begin || (uintptr_t)value >= object->end)) return value;
  void *real = dlsym(RTLD_DEFAULT, name);
  return real ? real : dlsym(handle, name);
}

static int by_address(const void *a, const void *b) {
  const struct slot *left = a, *right = b;
  return (left->address > right->address) - (left->address < right->address);
}

static void bind(struct object *object) {
  int held = xsp_objects_hold(object);
  int kept = 0;
  for (int i = 0; i < object->count; i++) {
    struct slot slot = object->slots[i];
    if (held) {
      void *value = __atomic_load_n(slot.address, __ATOMIC_ACQUIRE);
      void *real = real_function(object, value, object->names[i], object->handle);
      if (real && stub_at(real) < 0 && is_function(real)) slot.stub = find_or_add_stub(object->names[i], real);
    }
    free(object->names[i]);
    if (slot.stub >= 0) object->slots[kept++] = slot;
  }
  object->count = kept;
  free(object->names);
  object->names = NULL;
  xsp_objects_release(object);
  if (kept) qsort(object->slots, (size_t)kept, sizeof *object->slots, by_address);
}

/* Looks through objects loaded since the last scan. Returns the number of stubs bound so far, or -errno. While slots are
 * patched it changes nothing: what is known of them is needed to restore them. */
XSP_EXPORT int xsp_interpose_scan(void) {
  pthread_mutex_lock(&scanning);
  int result = 0;
  if (!patched_slots && xsp_objects_changed()) {
    int first = xsp_object_count;
    if (first == 0) refused = 0; /* all are looked through again */
    result = xsp_objects_scan();
    for (int i = first; i < xsp_object_count; i++)
      if (xsp_objects[i]->count) bind(xsp_objects[i]);
  }
  if (!result) result = stub_count;
  pthread_mutex_unlock(&scanning);
  return result;
}

/* ---- writing slots ---- */

/* A described stub can be in use by a thread that still holds its address: it is never described again. */
static void describe_like(int stub, int other) {
  if (described[stub]) return;
  struct xsp_stub *target = &xsp_stubs[stub], *source = &xsp_stubs[other];
  target->traced = source->traced;
  target->live = source->live;
  target->kept = source->kept;
  memcpy(target->position, source->position, sizeof target->position);
  memcpy(target->wide, source->wide, sizeof target->wide);
  described[stub] = 1;
}

static void patch(const struct object *object, struct slot *slot) {
  void *value = __atomic_load_n(slot->address, __ATOMIC_ACQUIRE);
  if (!xsp_stubs[slot->stub].traced || slot->patched || stub_at(value) >= 0) return;
  int resolved = (uintptr_t)value < object->begin || (uintptr_t)value >= object->end;
  if (resolved && value != xsp_stubs[slot->stub].real) {
    /* Another tool has put its own function there since the scan: lead to that one. */
    int stub = find_or_add_stub(xsp_stubs[slot->stub].name, value);
    if (stub < 0) return;
    describe_like(stub, slot->stub);
    slot->stub = stub;
  }
  slot->original = value;
  __atomic_store_n(slot->address, stub_entry(slot->stub), __ATOMIC_RELEASE);
  slot->patched = 1;
  patched_slots++;
}

/* A slot that no longer holds our stub was taken over by someone else, or belongs to an object loaded where the patched
 * one was: it is not ours to write. */
static void restore(const struct object *object, struct slot *slot) {
  (void)object;
  if (!slot->patched) return;
  if (__atomic_load_n(slot->address, __ATOMIC_ACQUIRE) == stub_entry(slot->stub))
    __atomic_store_n(slot->address, slot->original, __ATOMIC_RELEASE);
  slot->patched = 0;
  patched_slots--;
}

typedef void (*slot_writer)(const struct object *, struct slot *);

/* Slots of one page are written together, so that a read-only page is opened and closed once. */
static int write_page(struct object *object, int first, uintptr_t page_bytes, slot_writer write, int *next) {
  struct slot *slots = object->slots;
  uintptr_t page = (uintptr_t)slots[first].address & ~(page_bytes - 1);
  int protection = slots[first].protection, error = 0;
  int closed = !(protection & PROT_WRITE);
  int open = protection >= 0 && (!closed || mprotect((void *)page, page_bytes, protection | PROT_WRITE) == 0);
  if (!open) error = protection >= 0 ? -errno : -EFAULT;
  int i = first;
  for (; i < object->count && (uintptr_t)slots[i].address < page + page_bytes; i++)
    if (open) write(object, &slots[i]);
  if (closed && open && mprotect((void *)page, page_bytes, protection)) error = -errno;
  *next = i;
  return error;
}

static int write_object(struct object *object, slot_writer write) {
  uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
  int error = 0;
  for (int i = 0; i < object->count;) {
    int failed = write_page(object, i, page_bytes, write, &i);
    if (failed) error = failed;
  }
  return error;
}

static int write_objects(slot_writer write) {
  for (int i = 0; i < xsp_object_count; i++)
    if (xsp_objects[i]->count) xsp_objects_hold(xsp_objects[i]);
  int error = xsp_objects_read_protections();
  for (int i = 0; i < xsp_object_count; i++) {
    int failed = xsp_objects[i]->handle && !error ? write_object(xsp_objects[i], write) : 0;
    if (failed) error = failed;
    xsp_objects_release(xsp_objects[i]);
  }
  return error;
}

static void drop_unloaded(void) {
  for (int i = 0; i < xsp_object_count; i++)
    for (int j = 0; j < xsp_objects[i]->count; j++)
      if (xsp_objects[i]->slots[j].patched) xsp_objects[i]->slots[j].patched = 0, patched_slots--;
}

static int stop(void) {
  xsp_calls_close();
  int error = patched_slots ? write_objects(restore) : 0;
  if (!error) drop_unloaded();
  return error;
}

/* Ends recording and writes every slot back. Returns 0 or -errno; stopping twice is harmless. */
XSP_EXPORT int xsp_interpose_stop(void) {
  pthread_mutex_lock(&scanning);
  int error = stop();
  pthread_mutex_unlock(&scanning);
  return error;
}

/* Begins a run: traced slots lead to their stubs until xsp_interpose_stop. Returns how many, or -errno. */
XSP_EXPORT int xsp_interpose_start(xsp_live_callback callback, int64_t record_limit) {
  pthread_mutex_lock(&scanning);
  int result = xsp_calls_open(callback, record_limit);
  if (!result) {
    int error = write_objects(patch);
    if (error) stop();
    result = error ? error : patched_slots;
  }
  pthread_mutex_unlock(&scanning);
  return result;
}

static int locked(const int *value) {
  pthread_mutex_lock(&scanning);
  int copy = *value;
  pthread_mutex_unlock(&scanning);
  return copy;
}

/* Slots that lead to a stub right now; 0 whenever recording is stopped. */
XSP_EXPORT int xsp_interpose_patched(void) { return locked(&patched_slots); }

/* Slots of traced symbols in the objects looked through so far. */
XSP_EXPORT int xsp_interpose_slots(void) {
  int slots = 0;
  pthread_mutex_lock(&scanning);
  for (int i = 0; i < xsp_object_count; i++)
    for (int j = 0; j < xsp_objects[i]->count; j++) slots += xsp_stubs[xsp_objects[i]->slots[j].stub].traced;
  pthread_mutex_unlock(&scanning);
  return slots;
}

/* (name, real function) pairs that found no free stub, and so are not traced. */
XSP_EXPORT int xsp_interpose_refused(void) { return locked(&refused); }

/* Stubs bound so far; a run can add some, see patch(). */
XSP_EXPORT int xsp_interpose_stubs(void) { return locked(&stub_count); }

XSP_EXPORT const char *xsp_interpose_name(int stub) { return xsp_stubs[stub].name; }

XSP_EXPORT void *xsp_interpose_real(int stub) { return xsp_stubs[stub].real; }

/* Says what to do with a symbol, once. `positions` and `wide` have `kept` entries, at most XSP_KEPT. */
XSP_EXPORT void xsp_interpose_describe(int stub, int traced, int live, int kept, const uint8_t *positions,
                                       const uint8_t *wide) {
  pthread_mutex_lock(&scanning);
  struct xsp_stub *target = &xsp_stubs[stub];
  if (!described[stub]) {
    target->traced = (uint8_t)traced;
    target->live = (uint8_t)live;
    target->kept = (uint8_t)(kept < XSP_KEPT ? kept : XSP_KEPT);
    memcpy(target->position, positions, target->kept);
    memcpy(target->wide, wide, target->kept);
    described[stub] = 1;
  }
  pthread_mutex_unlock(&scanning);
}

/* ---- forking ---- */

static void before_fork(void) { pthread_mutex_lock(&scanning); }

static void in_parent(void) { pthread_mutex_unlock(&scanning); }

/* Slots still lead to stubs here if they do in the parent; without recording these only pass calls on. */
static void in_child(void) {
  xsp_calls_close();
  pthread_mutex_unlock(&scanning);
}

__attribute__((constructor)) static void follow_forks(void) { pthread_atfork(before_fork, in_parent, in_child); }
