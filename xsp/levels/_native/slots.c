/* Finding and writing import slots.
 *
 * xsp_interpose_scan looks through the relocations of every loaded object for functions whose names begin like those of
 * the traced libraries, and binds each (name, real function) to a stub. xsp_interpose_start writes the stubs' addresses
 * into the slots, xsp_interpose_stop writes back what was there. Slots are read and written inside dl_iterate_phdr,
 * whose lock keeps an object from being unmapped meanwhile; objects that are gone are simply not met again.
 */
#include "interpose.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Only calls from outside are traced: these call themselves and each other. */
static const char *const callee_files[] = {"libcublas", "libcudnn",   "libcufft",  "libcusparse",  "libcusolver", "libnccl",
                                           "libcupti",  "libcuda.so", "libnvrtc", "libnvJitLink", "libxsp_native"};
static const char *const symbol_prefixes[] = {"cublas", "cudnn", "cufft", "cusparse", "cusolver", "nccl"};

struct slot {
  void **address;
  void *original;  /* what a patched slot held */
  int stub;
  int protection;  /* of its page, as /proc/self/maps told */
  int patched;
};

struct object {
  char *path;
  uintptr_t base, begin, end; /* load address and mapped range */
  const void *headers;
  struct slot *slots;         /* ascending addresses */
  char **names;               /* of the slots' symbols, until they are bound */
  int count, room;
};

static pthread_mutex_t scanning = PTHREAD_MUTEX_INITIALIZER;
static struct object **objects; /* those already looked through, also if they import nothing */
static int object_count, object_room;
static unsigned long long seen_adds, seen_subs;
static int stub_count, refused, patched_slots;

static int begins_with_any(const char *text, const char *const *prefixes, size_t count, int capital_follows) {
  for (size_t i = 0; i < count; i++) {
    size_t length = strlen(prefixes[i]);
    if (strncmp(text, prefixes[i], length) == 0 && (!capital_follows || (text[length] >= 'A' && text[length] <= 'Z')))
      return 1;
  }
  return 0;
}
#define COUNT(array) (sizeof(array) / sizeof *(array))

static int is_traced_name(const char *name) {
  return begins_with_any(name, symbol_prefixes, COUNT(symbol_prefixes), 1);
}

static int is_callee(const char *path) {
  const char *slash = strrchr(path, '/');
  return begins_with_any(slash ? slash + 1 : path, callee_files, COUNT(callee_files), 0);
}

/* ---- reading relocations ---- */

struct dynamic {
  const ElfW(Rela) *tables[2];
  size_t bytes[2];
  const ElfW(Sym) *symbols;
  const char *strings;
};

/* glibc has already added the load address to most pointers in the dynamic section, but not to the vdso's. */
static const void *pointer(const struct dl_phdr_info *info, ElfW(Addr) value) {
  return (const void *)(value < info->dlpi_addr ? info->dlpi_addr + value : value);
}

static int read_dynamic(const struct dl_phdr_info *info, struct dynamic *out) {
  const ElfW(Dyn) *entry = NULL;
  for (int i = 0; i < info->dlpi_phnum; i++)
    if (info->dlpi_phdr[i].p_type == PT_DYNAMIC)
      entry = (const ElfW(Dyn) *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
  memset(out, 0, sizeof *out);
  for (; entry && entry->d_tag != DT_NULL; entry++) switch (entry->d_tag) {
      case DT_JMPREL: out->tables[0] = pointer(info, entry->d_un.d_ptr); break;
      case DT_PLTRELSZ: out->bytes[0] = entry->d_un.d_val; break;
      case DT_RELA: out->tables[1] = pointer(info, entry->d_un.d_ptr); break;
      case DT_RELASZ: out->bytes[1] = entry->d_un.d_val; break;
      case DT_SYMTAB: out->symbols = pointer(info, entry->d_un.d_ptr); break;
      case DT_STRTAB: out->strings = pointer(info, entry->d_un.d_ptr); break;
      default: break;
    }
  return out->symbols && out->strings;
}

static int add_slot(struct object *object, void **address, const char *name) {
  if (object->count == object->room) {
    int room = object->room ? 2 * object->room : 64;
    struct slot *slots = realloc(object->slots, (size_t)room * sizeof *slots);
    if (slots) object->slots = slots;
    char **names = realloc(object->names, (size_t)room * sizeof *names);
    if (names) object->names = names;
    if (!slots || !names) return -ENOMEM;
    object->room = room;
  }
  char *copy = strdup(name);
  if (!copy) return -ENOMEM;
  object->names[object->count] = copy;
  object->slots[object->count++] = (struct slot){.address = address, .stub = -1};
  return 0;
}

static int read_slots(const struct dl_phdr_info *info, struct object *object) {
  struct dynamic dynamic;
  if (!read_dynamic(info, &dynamic)) return 0;
  for (int t = 0; t < 2; t++)
    for (size_t i = 0; dynamic.tables[t] && i < dynamic.bytes[t] / sizeof(ElfW(Rela)); i++) {
      const ElfW(Rela) *relocation = &dynamic.tables[t][i];
      unsigned long type = ELF64_R_TYPE(relocation->r_info);
      if (type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT) continue;
      const ElfW(Sym) *symbol = &dynamic.symbols[ELF64_R_SYM(relocation->r_info)];
      const char *name = dynamic.strings + symbol->st_name;
      if (symbol->st_shndx != SHN_UNDEF || !is_traced_name(name)) continue;
      if (add_slot(object, (void **)(info->dlpi_addr + relocation->r_offset), name)) return -ENOMEM;
    }
  return 0;
}

static void measure(const struct dl_phdr_info *info, struct object *object) {
  object->begin = UINTPTR_MAX;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *header = &info->dlpi_phdr[i];
    if (header->p_type != PT_LOAD) continue;
    uintptr_t begin = info->dlpi_addr + header->p_vaddr, end = begin + header->p_memsz;
    if (begin < object->begin) object->begin = begin;
    if (end > object->end) object->end = end;
  }
}

static struct object *find_object(const struct dl_phdr_info *info) {
  for (int i = 0; i < object_count; i++)
    if (objects[i]->base == info->dlpi_addr && objects[i]->headers == info->dlpi_phdr) return objects[i];
  return NULL;
}

static struct object *new_object(const struct dl_phdr_info *info) {
  if (object_count == object_room) {
    int room = object_room ? 2 * object_room : 128;
    struct object **grown = realloc(objects, (size_t)room * sizeof *grown);
    if (!grown) return NULL;
    objects = grown;
    object_room = room;
  }
  struct object *object = calloc(1, sizeof *object);
  if (!object || !(object->path = strdup(info->dlpi_name))) {
    free(object);
    return NULL;
  }
  object->base = info->dlpi_addr;
  object->headers = info->dlpi_phdr;
  measure(info, object);
  return objects[object_count++] = object;
}

static int look_at(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size, (void)data;
  seen_adds = info->dlpi_adds;
  seen_subs = info->dlpi_subs;
  if (find_object(info)) return 0;
  struct object *object = new_object(info);
  if (!object) return -ENOMEM;
  return is_callee(info->dlpi_name) ? 0 : read_slots(info, object);
}

static void forget_objects(void) {
  for (int i = 0; i < object_count; i++) {
    for (int j = 0; objects[i]->names && j < objects[i]->count; j++) free(objects[i]->names[j]);
    free(objects[i]->names);
    free(objects[i]->slots);
    free(objects[i]->path);
    free(objects[i]);
  }
  object_count = 0;
}

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

static void apply_protection(struct object *object, uintptr_t begin, uintptr_t end, int protection) {
  for (int i = 0; i < object->count; i++)
    if ((uintptr_t)object->slots[i].address >= begin && (uintptr_t)object->slots[i].address < end)
      object->slots[i].protection = protection;
}

static int read_protections(int first_object) {
  FILE *maps = fopen("/proc/self/maps", "re");
  if (!maps) return -errno;
  char line[512];
  int line_begins = 1;
  while (fgets(line, sizeof line, maps)) {
    uintptr_t begin, end;
    char r, w, x;
    if (line_begins && sscanf(line, "%lx-%lx %c%c%c", &begin, &end, &r, &w, &x) == 5) {
      int protection = (r == 'r' ? PROT_READ : 0) | (w == 'w' ? PROT_WRITE : 0) | (x == 'x' ? PROT_EXEC : 0);
      for (int i = first_object; i < object_count; i++) apply_protection(objects[i], begin, end, protection);
    }
    line_begins = strchr(line, '\n') != NULL;
  }
  fclose(maps);
  return 0;
}

static int stamp(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  unsigned long long *now = data;
  now[0] = info->dlpi_adds;
  now[1] = info->dlpi_subs;
  return 1;
}

static int libraries_changed(void) {
  unsigned long long now[2] = {0, 0};
  dl_iterate_phdr(stamp, now);
  int changed = now[0] != seen_adds || now[1] != seen_subs;
  if (now[1] != seen_subs) forget_objects(); /* an address may since belong to another object */
  return changed;
}

/* Looks through objects loaded since the last scan. Returns the number of stubs bound so far, or -errno. While slots are
 * patched it changes nothing: what is known of them is needed to restore them. */
XSP_EXPORT int xsp_interpose_scan(void) {
  pthread_mutex_lock(&scanning);
  int result = 0;
  if (!patched_slots && libraries_changed()) {
    int first = object_count;
    result = dl_iterate_phdr(look_at, NULL);
    for (int i = first; i < object_count; i++) {
      if (objects[i]->count) bind(objects[i]);
      qsort(objects[i]->slots, (size_t)objects[i]->count, sizeof(struct slot), by_address);
    }
    if (!result) result = read_protections(first);
    if (result) forget_objects(), seen_adds = 0;
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
  measure(info, &now);
  return now.begin == object->begin && now.end == object->end && strcmp(info->dlpi_name, object->path) == 0;
}

/* Slots of one page are written together, so that a read-only page is opened and closed once. */
static int write_object(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  struct writing *writing = data;
  struct object *object = find_object(info);
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
  for (int i = 0; i < object_count; i++)
    for (int j = 0; j < objects[i]->count; j++)
      if (objects[i]->slots[j].patched) objects[i]->slots[j].patched = 0, patched_slots--;
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
  for (int i = 0; i < object_count; i++)
    for (int j = 0; j < objects[i]->count; j++) slots += xsp_stubs[objects[i]->slots[j].stub].traced;
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
