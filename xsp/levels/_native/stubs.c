/* The functions that patched slots point to.
 *
 * XSP_STUBS tiny entries load their index and jump to one common body, which works for any C signature: it saves every
 * register that can hold an argument, asks xsp_calls_enter, and then either jumps to the real function as if nothing
 * had happened, or calls it with a copy of the stack arguments and reports the end to xsp_calls_leave.
 *
 * The call is a real one in a real frame described by CFI, with the return address left alone, so debuggers, sampling
 * profilers, C++ exceptions and shadow stacks see an ordinary function; an exception runs a cleanup on its way. 32 stack slots are copied: with the six in
 * registers that allows 38 integer arguments; the longest signature in use (cudnnBatchNormalizationBackwardEx) has 29.
 * Where a function has fewer, the copy reads 256 bytes of the caller's own frames, or above the first frame of a thread
 * its control block.
 */
#include "interpose.h"

#include <stddef.h>

#define OFFSET_IS(member, value) \
  _Static_assert(offsetof(struct xsp_frame, member) == (value), "stubs.c repeats this offset: " #member)
OFFSET_IS(rax, 48);
OFFSET_IS(r10, 56);
OFFSET_IS(vector, 64);
OFFSET_IS(stub, 192);
OFFSET_IS(real, 200);
OFFSET_IS(result, 208);
OFFSET_IS(stack, 232);
_Static_assert(sizeof(struct xsp_frame) == 304, "stubs.c reserves 304 bytes, a multiple of 16, for the frame");
_Static_assert(XSP_STUBS == 2048 && XSP_STUB_BYTES == 16, "stubs.c repeats the number and the size of the stubs");

/* Below rbp: 304 bytes of struct xsp_frame, 32 bytes for xmm0 and xmm1, 16 for rdx; below them the argument copy. */
__asm__(
    ".text\n"
    ".globl xsp_stub_entries\n"
    ".hidden xsp_stub_entries\n"
    ".type xsp_stub_entries, @function\n"
    ".balign 16\n"
    "xsp_stub_entries:\n"
    ".cfi_startproc\n"
    ".set xsp_stub_index, 0\n"
    ".rept 2048\n"
    "  .balign 16\n"
    "  endbr64\n"
    "  movl $xsp_stub_index, %r11d\n"
    "  jmp xsp_stub_common\n"
    "  .set xsp_stub_index, xsp_stub_index + 1\n"
    ".endr\n"
    ".cfi_endproc\n"
    ".size xsp_stub_entries, . - xsp_stub_entries\n"

    ".macro xsp_load_arguments\n"
    "  movq -352+0(%rbp), %rdi\n"
    "  movq -352+8(%rbp), %rsi\n"
    "  movq -352+16(%rbp), %rdx\n"
    "  movq -352+24(%rbp), %rcx\n"
    "  movq -352+32(%rbp), %r8\n"
    "  movq -352+40(%rbp), %r9\n"
    "  movq -352+48(%rbp), %rax\n"
    "  movq -352+56(%rbp), %r10\n"
    "  movaps -352+64(%rbp), %xmm0\n"
    "  movaps -352+80(%rbp), %xmm1\n"
    "  movaps -352+96(%rbp), %xmm2\n"
    "  movaps -352+112(%rbp), %xmm3\n"
    "  movaps -352+128(%rbp), %xmm4\n"
    "  movaps -352+144(%rbp), %xmm5\n"
    "  movaps -352+160(%rbp), %xmm6\n"
    "  movaps -352+176(%rbp), %xmm7\n"
    "  movq -352+200(%rbp), %r11\n"
    ".endm\n"

    ".balign 16\n"
    ".type xsp_stub_common, @function\n"
    "xsp_stub_common:\n"
    "  .cfi_startproc\n"
    "  .cfi_personality 0x9b, DW.ref.__gcc_personality_v0\n"
    "  .cfi_lsda 0x1b, .Lxsp_exceptions\n"
    "  pushq %rbp\n"
    "  .cfi_def_cfa_offset 16\n"
    "  .cfi_offset %rbp, -16\n"
    "  movq %rsp, %rbp\n"
    "  .cfi_def_cfa_register %rbp\n"
    "  subq $352, %rsp\n"
    "  movq %rdi, 0(%rsp)\n"
    "  movq %rsi, 8(%rsp)\n"
    "  movq %rdx, 16(%rsp)\n"
    "  movq %rcx, 24(%rsp)\n"
    "  movq %r8, 32(%rsp)\n"
    "  movq %r9, 40(%rsp)\n"
    "  movq %rax, 48(%rsp)\n"
    "  movq %r10, 56(%rsp)\n"
    "  movaps %xmm0, 64(%rsp)\n"
    "  movaps %xmm1, 80(%rsp)\n"
    "  movaps %xmm2, 96(%rsp)\n"
    "  movaps %xmm3, 112(%rsp)\n"
    "  movaps %xmm4, 128(%rsp)\n"
    "  movaps %xmm5, 144(%rsp)\n"
    "  movaps %xmm6, 160(%rsp)\n"
    "  movaps %xmm7, 176(%rsp)\n"
    "  movl %r11d, %r11d\n"
    "  movq %r11, 192(%rsp)\n"
    "  leaq 16(%rbp), %rax\n"
    "  movq %rax, 232(%rsp)\n"
    "  movq %rsp, %rdi\n"
    "  call xsp_calls_enter\n"
    "  testl %eax, %eax\n"
    "  jne 1f\n"

    /* Not recorded: become the real function. */
    "  xsp_load_arguments\n"
    "  .cfi_remember_state\n"
    "  leave\n"
    "  .cfi_def_cfa %rsp, 8\n"
    "  jmp *%r11\n"
    "  .cfi_restore_state\n"

    "1:\n"
    "  subq $256, %rsp\n"
    ".set xsp_slot, 0\n"
    ".rept 16\n"
    "  movups 16+xsp_slot(%rbp), %xmm0\n"
    "  movaps %xmm0, xsp_slot(%rsp)\n"
    "  .set xsp_slot, xsp_slot + 16\n"
    ".endr\n"
    "  xsp_load_arguments\n"
    ".Lxsp_call:\n"
    "  call *%r11\n"
    ".Lxsp_called:\n"
    "  movq %rax, -352+208(%rbp)\n"
    "  movaps %xmm0, -48(%rbp)\n"
    "  movaps %xmm1, -32(%rbp)\n"
    "  movq %rdx, -16(%rbp)\n"
    "  leaq -352(%rbp), %rdi\n"
    "  call xsp_calls_leave\n"
    "  movq -352+208(%rbp), %rax\n"
    "  movaps -48(%rbp), %xmm0\n"
    "  movaps -32(%rbp), %xmm1\n"
    "  movq -16(%rbp), %rdx\n"
    "  .cfi_remember_state\n"
    "  leave\n"
    "  .cfi_def_cfa %rsp, 8\n"
    "  ret\n"
    "  .cfi_restore_state\n"

    /* An exception or a cancelled thread passes through: the call is over. */
    ".Lxsp_unwinding:\n"
    "  movq %rax, -16(%rbp)\n"
    "  call xsp_calls_abandon\n"
    "  movq -16(%rbp), %rdi\n"
    "  call _Unwind_Resume@PLT\n"
    "  .cfi_endproc\n"
    ".size xsp_stub_common, . - xsp_stub_common\n"

    /* One call site with a cleanup and no types to match, in the form that __gcc_personality_v0 reads. */
    ".section .gcc_except_table, \"a\", @progbits\n"
    ".Lxsp_exceptions:\n"
    "  .byte 0xff, 0xff, 0x01\n"
    "  .uleb128 .Lxsp_sites_end - .Lxsp_sites\n"
    ".Lxsp_sites:\n"
    "  .uleb128 .Lxsp_call - xsp_stub_common\n"
    "  .uleb128 .Lxsp_called - .Lxsp_call\n"
    "  .uleb128 .Lxsp_unwinding - xsp_stub_common\n"
    "  .uleb128 0\n"
    ".Lxsp_sites_end:\n"
    ".hidden DW.ref.__gcc_personality_v0\n"
    ".weak DW.ref.__gcc_personality_v0\n"
    ".section .data.rel.local.DW.ref.__gcc_personality_v0, \"awG\", @progbits, DW.ref.__gcc_personality_v0, comdat\n"
    ".balign 8\n"
    ".type DW.ref.__gcc_personality_v0, @object\n"
    ".size DW.ref.__gcc_personality_v0, 8\n"
    "DW.ref.__gcc_personality_v0:\n"
    "  .quad __gcc_personality_v0\n"
    ".text\n");
