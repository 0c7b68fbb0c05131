/* What every file of the native part needs. */
#ifndef XSP_NATIVE_H
#define XSP_NATIVE_H

#define XSP_EXPORT __attribute__((visibility("default")))

#endif
