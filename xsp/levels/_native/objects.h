/* Loaded objects and their import slots: objects.c finds them, slots.c binds and writes them. */
#ifndef XSP_OBJECTS_H
#define XSP_OBJECTS_H

#include <link.h>
#include <stddef.h>
#include <stdint.h>

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

extern struct object **xsp_objects; /* those already looked through, also if they import nothing */
extern int xsp_object_count;

struct object *xsp_objects_find(const struct dl_phdr_info *info);
void xsp_objects_measure(const struct dl_phdr_info *info, struct object *object);

/* Whether libraries were loaded or unloaded since the last scan. What is known is forgotten if any was unloaded. */
int xsp_objects_changed(void);

/* Looks through objects that are new, with the protection of their slots' pages. Returns 0 or -errno; everything is
 * forgotten then. */
int xsp_objects_scan(void);

#endif
