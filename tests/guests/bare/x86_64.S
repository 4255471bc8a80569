/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Entered through a Multiboot header with addresses: QEMU on a host of any byte order reads it. */
#include "longmode.inc"

    .section .start, "ax"
    .code32
    .globl _start
_start:
    jmp 4f
    .balign 4
header:
    .long 0x1badb002
    .long 0x00010000                    /* the addresses below count */
    .long -(0x1badb002 + 0x00010000)
    .long header
    .long _start
    .long 0                             /* load the whole file */
    .long bare_end
    .long _start
4:  cli
    enter_long_mode bare_tables, 5f

    .code64
5:  load_data_segments
    movl $bare_stack, %esp
    call bare_main
