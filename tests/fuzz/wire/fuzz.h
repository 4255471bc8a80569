/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef WIRE_FUZZ_H
#define WIRE_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* libFuzzer's entry point, which standalone.c calls as well. Returns 0, or -1
 * to keep an input out of the corpus. A fault it finds aborts the process. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
