"""Emptying the GPU's caches before every kernel, so that each reads its input from memory
(docs/counters.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import local

from xsp.errors import TracingError
from xsp.levels.kernel.callbacks import launches, told_of
from xsp.levels.kernel.cuda_driver import CudaDriver
from xsp.levels.kernel.cupti import CuptiLibrary

TIMES_L2 = 4
"""Sizes of the L2 cache that are read: its lines are not replaced in order, and Hopper's has two
halves.
"""

THREADS, BLOCKS_PER_MULTIPROCESSOR = 256, 8

# Reads, so that what stays in the cache is clean: lines that were written would be written back
# while the next kernel runs, and counted as its bytes. The store never happens, because the memory
# holds zeros.
PTX = """
.version 7.0
.target sm_75
.address_size 64
.visible .entry xsp_read_all(.param .u64 memory, .param .u64 count)
{
    .reg .pred %done, %zero;
    .reg .b32 %block, %size, %thread, %blocks, %index, %stride, %any, %a, %b, %c, %d;
    .reg .b64 %base, %end, %at, %step, %offset, %address;
    ld.param.u64 %base, [memory];
    cvta.to.global.u64 %base, %base;
    ld.param.u64 %end, [count];
    mov.u32 %block, %ctaid.x;
    mov.u32 %size, %ntid.x;
    mov.u32 %thread, %tid.x;
    mov.u32 %blocks, %nctaid.x;
    mad.lo.s32 %index, %block, %size, %thread;
    mul.lo.s32 %stride, %blocks, %size;
    cvt.u64.u32 %at, %index;
    cvt.u64.u32 %step, %stride;
    mov.u32 %any, 0;
next:
    setp.ge.u64 %done, %at, %end;
    @%done bra finish;
    shl.b64 %offset, %at, 4;
    add.u64 %address, %base, %offset;
    ld.global.cg.v4.u32 {%a, %b, %c, %d}, [%address];
    or.b32 %any, %any, %a;
    or.b32 %any, %any, %b;
    or.b32 %any, %any, %c;
    or.b32 %any, %any, %d;
    add.u64 %at, %at, %step;
    bra next;
finish:
    setp.eq.u32 %zero, %any, 0;
    @%zero bra leave;
    st.global.u32 [%base], %any;
leave:
    ret;
}
"""


class CacheFlush:
    """While it is open, xsp's own kernel runs before each kernel that the program launches, and
    alone.

    CUPTI tells of every launch before the driver sees it (`cuptiSubscribe`). `blocks` are those of
    xsp's kernel.
    """

    def __init__(self, driver: CudaDriver, context: int) -> None:
        self._driver, self._context = driver, context
        self._within = local()
        with driver.current(context):
            self.blocks = BLOCKS_PER_MULTIPROCESSOR * driver.multiprocessors()
            self._bytes = TIMES_L2 * driver.l2_bytes()
        self._failure: BaseException | None = None

    @contextmanager
    def opened(self, library: CuptiLibrary) -> Iterator[None]:
        """Raises LevelError if another profiler listens, TracingError if CUPTI or the driver
        refuses.
        """
        with self._prepared(), told_of(library, launches(), self._before_launch):
            yield

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """The kernel and its memory. In between, the program's own context is the current one."""
        with ExitStack() as stack:
            with self._driver.current(self._context):
                module, self._function = self._driver.load(PTX, "xsp_read_all")
                stack.callback(self._let_go, self._driver.unload, module)
                self._memory = self._driver.zeros(self._bytes)
                stack.callback(self._let_go, self._driver.free, self._memory)
            yield

    def _let_go(self, release: Callable[[int], None], what: int) -> None:
        with self._driver.current(self._context):
            release(what)

    def require_done(self) -> None:
        """Raise TracingError if a flush failed since the last call, and an interrupt that came in
        one.
        """
        failure, self._failure = self._failure, None
        if isinstance(failure, Exception):
            raise TracingError(f"the caches could not be flushed: {failure}") from failure
        if failure is not None:
            raise failure

    def _before_launch(self) -> None:
        """Empty the caches, unless this is the launch that does it. A failure, or an interrupt, is
        kept for later.
        """
        if getattr(self._within, "flush", False):
            return
        self._within.flush = True
        try:
            self._driver.synchronize()
            self._driver.launch(
                self._function, self.blocks, THREADS, self._memory, self._bytes // 16
            )
            self._driver.synchronize()
        except BaseException as error:
            self._failure = error
        finally:
            self._within.flush = False
