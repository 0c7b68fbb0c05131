// Leaves a library call by an exception, then makes another one from further down the stack.
#include <stdexcept>
extern "C" int cublasFakeCall(void (*)());
extern "C" int cublasSgemm_v2(void *, int, int, int, int, int, void *, void *, int, void *, int, void *, void *, int);

static void fail() { throw std::runtime_error("from inside the library"); }

static int __attribute__((noinline)) deeper(int depth) {
  volatile char room[4096] = {0};
  if (depth) return deeper(depth - 1) + room[depth];
  return cublasSgemm_v2(nullptr, 0, 0, 1, 2, 3, nullptr, nullptr, 0, nullptr, 0, nullptr, nullptr, 0);
}

extern "C" int caught() {
  try {
    cublasFakeCall(fail);
  } catch (const std::runtime_error &) {
    return deeper(4);
  }
  return 1;
}
