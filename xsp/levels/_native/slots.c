/* Binding and writing import slots.
 *
 * xsp_interpose_scan binds each (name, real function) that objects.c found to a stub. xsp_interpose_start writes the
 * stubs' addresses into the slots, xsp_interpose_stop writes back what was there. Slots are read and written inside
 * dl_iterate_phdr, whose lock keeps an object from being unmapped meanwhile; objects that are gone are simply not met
 * again.
 */
#include "interpose.h"
#include "objects.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static pthread_mutex_t scanning = PTHREAD_MUTEX_INITIALIZER;
static int stub_count, refused, patched_slots;

/* ---- binding slots to stubs ---- */

static int find_or_add_stub(const char *name, void *real) {
  for (int i = 0; i < stub_count; i++)
    if (xsp_stubs[i].real == real && strcmp(xsp_stubs[i].name, name) == 0) return i;
  char *copy = stub_count < XSP_STUBS ? strdup(name) : NULL;
  if (!copy) {
    refused++;
    return -1;
  }
  xsp_stubs[stub_count].real = real;
  xsp_stubs[stub_count].name = copy;
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

static void bind(struct object *object) {
  /* The handle also proves that the object is still there, and keeps it while its slots are read. */
  void *handle = dlopen(object->path[0] ? object->path : NULL, RTLD_LAZY | RTLD_NOLOAD);
  int kept = 0;
  for (int i = 0; i < object->count; i++) {
    struct slot slot = object->slots[i];
    if (handle) {
      void *real = real_function(object, *slot.address, object->names[i], handle);
      if (real && stub_at(real) < 0 && is_function(real)) slot.stub = find_or_add_stub(object->names[i], real);
    }
    free(object->names[i]);
    if (slot.stub >= 0) object->slots[kept++] = slot;
  }
  object->count = kept;
  free(object->names);
  object->names = NULL;
  if (handle) dlclose(handle);
}

static int by_address(const void *a, const void *b) {
  const struct slot *left = a, *right = b;
  return (left->address > right->address) - (left->address < right->address);
}

/* Looks through objects loaded since the last scan. Returns the number of stubs bound so far, or -errno. While slots are
 * patched it changes nothing: what is known of them is needed to restore them. */
XSP_EXPORT int xsp_interpose_scan(void) {
  pthread_mutex_lock(&scanning);
  int result = 0;
  if (!patched_slots && xsp_objects_changed()) {
    int first = xsp_object_count;
    result = xsp_objects_scan();
    for (int i = first; i < xsp_object_count; i++) {
      if (xsp_objects[i]->count) bind(xsp_objects[i]);
      qsort(xsp_objects[i]->slots, (size_t)xsp_objects[i]->count, sizeof(struct slot), by_address);
    }
  }
  pthread_mutex_unlock(&scanning);
  return result ? result : stub_count;
}

/* ---- writing slots ---- */

static void patch(const struct object *object, struct slot *slot) {
  void *value = __atomic_load_n(slot->address, __ATOMIC_ACQUIRE);
  if (!xsp_stubs[slot->stub].traced || slot->patched || stub_at(value) >= 0) return;
  int resolved = (uintptr_t)value < object->begin || (uintptr_t)value >= object->end;
  if (resolved && value != xsp_stubs[slot->stub].real) {
    /* Another tool has put its own function there since the scan: lead to that one. */
    int stub = find_or_add_stub(xsp_stubs[slot->stub].name, value);
    if (stub < 0) return;
    struct xsp_stub copy = xsp_stubs[slot->stub];
    copy.real = value;
    copy.name = xsp_stubs[stub].name;
    xsp_stubs[stub] = copy;
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

struct writing {
  void (*write)(const struct object *, struct slot *);
  int error;
};

/* Whether what is loaded there now is the very file that was looked through, so that its slots' addresses are valid. */
static int is_unchanged(const struct dl_phdr_info *info, const struct object *object) {
  struct object now = {0};
  xsp_objects_measure(info, &now);
  return now.begin == object->begin && now.end == object->end && strcmp(info->dlpi_name, object->path) == 0;
}

/* Slots of one page are written together, so that a read-only page is opened and closed once. */
static int write_object(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  struct writing *writing = data;
  struct object *object = xsp_objects_find(info);
  if (!object || !object->count || !is_unchanged(info, object)) return 0;
  uintptr_t page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
  for (int i = 0; i < object->count;) {
    uintptr_t page = (uintptr_t)object->slots[i].address & ~(page_bytes - 1);
    int protection = object->slots[i].protection, closed = !(protection & PROT_WRITE);
    int open = !closed || mprotect((void *)page, page_bytes, protection | PROT_WRITE) == 0;
    if (!open) writing->error = -errno;
    for (; i < object->count && (uintptr_t)object->slots[i].address < page + page_bytes; i++)
      if (open) writing->write(object, &object->slots[i]);
    if (closed && open && mprotect((void *)page, page_bytes, protection)) writing->error = -errno;
  }
  return 0;
}

static void drop_unloaded(void) {
  for (int i = 0; i < xsp_object_count; i++)
    for (int j = 0; j < xsp_objects[i]->count; j++)
      if (xsp_objects[i]->slots[j].patched) xsp_objects[i]->slots[j].patched = 0, patched_slots--;
}

/* Ends recording and writes every slot back. Returns 0 or -errno; stopping twice is harmless. */
XSP_EXPORT int xsp_interpose_stop(void) {
  pthread_mutex_lock(&scanning);
  xsp_calls_close();
  struct writing writing = {restore, 0};
  if (patched_slots) dl_iterate_phdr(write_object, &writing);
  if (!writing.error) drop_unloaded();
  pthread_mutex_unlock(&scanning);
  return writing.error;
}

/* Begins a run: traced slots lead to their stubs until xsp_interpose_stop. Returns how many, or -errno. */
XSP_EXPORT int xsp_interpose_start(xsp_live_callback callback, int64_t record_limit) {
  pthread_mutex_lock(&scanning);
  struct writing writing = {patch, xsp_calls_open(callback, record_limit)};
  if (!writing.error) dl_iterate_phdr(write_object, &writing);
  int patched = patched_slots;
  pthread_mutex_unlock(&scanning);
  if (writing.error && writing.error != -EBUSY) xsp_interpose_stop();
  return writing.error ? writing.error : patched;
}

/* Slots that lead to a stub right now; 0 whenever recording is stopped. */
XSP_EXPORT int xsp_interpose_patched(void) { return patched_slots; }

/* Slots of traced symbols in the objects looked through so far. */
XSP_EXPORT int xsp_interpose_slots(void) {
  int slots = 0;
  for (int i = 0; i < xsp_object_count; i++)
    for (int j = 0; j < xsp_objects[i]->count; j++) slots += xsp_stubs[xsp_objects[i]->slots[j].stub].traced;
  return slots;
}

/* (name, real function) pairs that found no free stub, and so are not traced. */
XSP_EXPORT int xsp_interpose_refused(void) { return refused; }

/* Stubs bound so far; a run can add some, see patch(). */
XSP_EXPORT int xsp_interpose_stubs(void) { return stub_count; }

XSP_EXPORT const char *xsp_interpose_name(int stub) { return xsp_stubs[stub].name; }

XSP_EXPORT void *xsp_interpose_real(int stub) { return xsp_stubs[stub].real; }

/* Says what to do with a symbol. `positions` and `wide` have `kept` entries, at most XSP_KEPT. Not while recording. */
XSP_EXPORT void xsp_interpose_describe(int stub, int traced, int live, int kept, const uint8_t *positions,
                                       const uint8_t *wide) {
  struct xsp_stub *target = &xsp_stubs[stub];
  target->traced = (uint8_t)traced;
  target->live = (uint8_t)live;
  target->kept = (uint8_t)(kept < XSP_KEPT ? kept : XSP_KEPT);
  memcpy(target->position, positions, target->kept);
  memcpy(target->wide, wide, target->kept);
}
