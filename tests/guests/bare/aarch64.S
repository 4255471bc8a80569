/* SPDX-License-Identifier: GPL-2.0-or-later */
    .section .start, "ax"
    .globl _start
_start:
    adrp x0, bare_stack
    add x0, x0, :lo12:bare_stack
    mov sp, x0
    bl bare_main
