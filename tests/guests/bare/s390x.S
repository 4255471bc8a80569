/* SPDX-License-Identifier: GPL-2.0-or-later */
    .section .start, "ax"
    .globl _start
_start:
    larl %r15, bare_stack
    aghi %r15, -160
    brasl %r14, bare_main
