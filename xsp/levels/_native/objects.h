/* Loaded objects and their import slots: objects.c finds them, slots.c binds and writes them. */
#ifndef XSP_OBJECTS_H
#define XSP_OBJECTS_H

#include <stddef.h>
#include <stdint.h>

struct slot {
  void **address;
  void *original;  /* what a patched slot held */
  int stub;
  int protection;  /* of its page while its object is held, -1 where unknown */
  int patched;
};

struct object {
  char *path;
  uintptr_t base, begin, end; /* load address and mapped range */
  const void *headers;
  struct slot *slots;         /* ascending addresses */
  char **names;               /* of the slots' symbols, until they are bound */
  int count, room;
  void *handle; /* while the object is held, see xsp_objects_hold */
};

extern struct object **xsp_objects; /* those already looked through, also if they import nothing */
extern int xsp_object_count;

/* Whether libraries were loaded or unloaded since the last scan. What is known is forgotten if any was unloaded. */
int xsp_objects_changed(void);

/* Looks through objects that are new. Their slots can still be changed by the loader of another thread: nothing is read
 * from them here. Returns 0 or -errno; everything is forgotten then. */
int xsp_objects_scan(void);

/* Keeps this object from being unloaded until xsp_objects_release, waiting for a thread that is loading it. Returns 1
 * if it is there, relocated and with its final protection; 0 if it is gone. */
int xsp_objects_hold(struct object *object);
void xsp_objects_release(struct object *object);

/* Reads the present protection of all slots of held objects. Returns 0 or -errno. */
int xsp_objects_read_protections(void);

#endif
