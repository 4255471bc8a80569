/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Big-endian; entered at the image's first word, maybe in 32-bit mode, wherever it was loaded. */
    .machine power9
    .abiversion 2
    .section .start, "ax"
    .globl _start
_start:
    mfmsr 11
    li 10, 1
    insrdi 11, 10, 1, 0                 /* MSR.SF: 64-bit mode */
    mtmsrd 11
    isync
    bcl 20, 31, 1f
1:  mflr 12
    addis 2, 12, (.TOC. - 1b)@ha
    addi 2, 2, (.TOC. - 1b)@l
    addis 1, 2, bare_stack@toc@ha
    addi 1, 1, bare_stack@toc@l
    addi 1, 1, -128
    bl bare_main
    nop
