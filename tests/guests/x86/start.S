/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What stands at 1 MiB in place of the part of a bzImage that unpacks the kernel: the kernel is
 * there already, at the addresses it wants.  Enter 64-bit mode and go to it, with the boot
 * parameters where it expects them: in rsi.  ENTRY is the kernel's entry point.
 */
#include "longmode.inc"

    .text
    .code32
    .globl _start
_start:
    cli
    enter_long_mode 0x110000, 5f

    .code64
5:  load_data_segments
    movl %esi, %esi
    movl $ENTRY, %eax
    jmp *%rax
