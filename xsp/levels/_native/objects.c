/* Finding import slots: the relocations of every loaded object for functions whose names begin like those of the traced
 * libraries. What is found is kept, so that a later scan looks only at what was loaded since.
 */
#include "objects.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Only calls from outside are traced: these call themselves and each other. */
static const char *const callee_files[] = {"libcublas", "libcudnn",   "libcufft",  "libcusparse",  "libcusolver", "libnccl",
                                           "libcupti",  "libcuda.so", "libnvrtc", "libnvJitLink", "libxsp_native"};
static const char *const symbol_prefixes[] = {"cublas", "cudnn", "cufft", "cusparse", "cusolver", "nccl",
                                              /* Those that launches.py knows. */
                                              "cudaLaunchKernel", "__cudaLaunchKernel",
                                              "cudaLaunchCooperativeKernel", "cuLaunchKernel",
                                              "cuLaunchCooperativeKernel"};

struct object **xsp_objects;
int xsp_object_count;
static int object_room;
static unsigned long long seen_adds, seen_subs;

/* `whole_word`: a capital letter follows, an underscore, or nothing. */
static int begins_with_any(const char *text, const char *const *prefixes, size_t count, int whole_word) {
  for (size_t i = 0; i < count; i++) {
    size_t length = strlen(prefixes[i]);
    if (strncmp(text, prefixes[i], length)) continue;
    char next = text[length];
    if (!whole_word || (next >= 'A' && next <= 'Z') || next == '_' || next == '\0') return 1;
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

static int is_same(const struct dl_phdr_info *info, const struct object *object) {
  struct object now = {0};
  measure(info, &now);
  return now.begin == object->begin && now.end == object->end && strcmp(info->dlpi_name, object->path) == 0;
}

struct sought {
  const struct object *object;
  int found;
};

static int seek(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  struct sought *sought = data;
  if (info->dlpi_addr == sought->object->base && info->dlpi_phdr == sought->object->headers)
    sought->found = is_same(info, sought->object);
  return sought->found;
}

/* Whether what is loaded there now is the very file that was looked through, so that its slots' addresses are valid. */
static int is_unchanged(const struct object *object) {
  struct sought sought = {object, 0};
  dl_iterate_phdr(seek, &sought);
  return sought.found;
}

static struct object *find(const struct dl_phdr_info *info) {
  for (int i = 0; i < xsp_object_count; i++)
    if (xsp_objects[i]->base == info->dlpi_addr && xsp_objects[i]->headers == info->dlpi_phdr) return xsp_objects[i];
  return NULL;
}

static struct object *new_object(const struct dl_phdr_info *info) {
  if (xsp_object_count == object_room) {
    int room = object_room ? 2 * object_room : 128;
    struct object **grown = realloc(xsp_objects, (size_t)room * sizeof *grown);
    if (!grown) return NULL;
    xsp_objects = grown;
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
  return xsp_objects[xsp_object_count++] = object;
}

static int look_at(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size, (void)data;
  seen_adds = info->dlpi_adds;
  seen_subs = info->dlpi_subs;
  if (find(info)) return 0;
  struct object *object = new_object(info);
  if (!object) return -ENOMEM;
  return is_callee(info->dlpi_name) ? 0 : read_slots(info, object);
}

void xsp_objects_forget(void) {
  for (int i = 0; i < xsp_object_count; i++) {
    for (int j = 0; xsp_objects[i]->names && j < xsp_objects[i]->count; j++) free(xsp_objects[i]->names[j]);
    free(xsp_objects[i]->names);
    free(xsp_objects[i]->slots);
    free(xsp_objects[i]->path);
    free(xsp_objects[i]);
  }
  xsp_object_count = 0;
}

/* ---- holding objects ---- */

/* dl_iterate_phdr shows an object as soon as it is mapped, before it is relocated and before its read-only part is closed,
 * and its lock does not keep the loader of another thread from going on with that. Opening the object by its name does:
 * it takes the lock that a thread holds from mapping an object until its constructors have run. */
int xsp_objects_hold(struct object *object) {
  void *handle = dlopen(object->path[0] ? object->path : NULL, RTLD_LAZY | RTLD_NOLOAD);
  if (!handle) return 0;
  struct link_map *map = NULL;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) || map->l_addr != object->base || !is_unchanged(object)) {
    dlclose(handle);
    return 0;
  }
  object->handle = handle;
  return 1;
}

void xsp_objects_release(struct object *object) {
  if (object->handle) dlclose(object->handle);
  object->handle = NULL;
}

static void apply_protection(struct object *object, uintptr_t begin, uintptr_t end, int protection) {
  if (!object->handle || end <= object->begin || begin >= object->end) return;
  for (int i = 0; i < object->count; i++)
    if ((uintptr_t)object->slots[i].address >= begin && (uintptr_t)object->slots[i].address < end)
      object->slots[i].protection = protection;
}

static void forget_protections(void) {
  for (int i = 0; i < xsp_object_count; i++)
    for (int j = 0; j < xsp_objects[i]->count; j++) xsp_objects[i]->slots[j].protection = -1;
}

int xsp_objects_read_protections(void) {
  FILE *maps = fopen("/proc/self/maps", "re");
  if (!maps) return -errno;
  forget_protections();
  char line[512];
  int line_begins = 1;
  while (fgets(line, sizeof line, maps)) {
    uintptr_t begin, end;
    char r, w, x;
    if (line_begins && sscanf(line, "%lx-%lx %c%c%c", &begin, &end, &r, &w, &x) == 5) {
      int protection = (r == 'r' ? PROT_READ : 0) | (w == 'w' ? PROT_WRITE : 0) | (x == 'x' ? PROT_EXEC : 0);
      for (int i = 0; i < xsp_object_count; i++) apply_protection(xsp_objects[i], begin, end, protection);
    }
    line_begins = strchr(line, '\n') != NULL;
  }
  fclose(maps);
  return 0;
}

/* ---- looking through what is loaded ---- */

static int stamp(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size;
  unsigned long long *now = data;
  now[0] = info->dlpi_adds;
  now[1] = info->dlpi_subs;
  return 1;
}

int xsp_objects_changed(void) {
  unsigned long long now[2] = {0, 0};
  dl_iterate_phdr(stamp, now);
  int changed = now[0] != seen_adds || now[1] != seen_subs;
  if (now[1] != seen_subs) xsp_objects_forget(); /* an address may since belong to another object */
  return changed;
}

int xsp_objects_scan(void) {
  int result = dl_iterate_phdr(look_at, NULL);
  if (result) xsp_objects_forget(), seen_adds = 0;
  return result;
}
