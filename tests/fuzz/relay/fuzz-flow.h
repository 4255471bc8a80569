/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QS_FUZZ_FLOW_H
#define QS_FUZZ_FLOW_H

#include <stddef.h>
#include <stdint.h>

void fuzz_flow(const uint8_t *data, size_t size);

#endif
