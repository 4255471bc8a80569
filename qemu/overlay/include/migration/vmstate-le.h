/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For values that a little-endian host always sent as it found them in memory.
 *
 * vmstate_info_le*: an integer whose bytes lie in memory in the device's order,
 * whatever the host's.  vmstate_info_buffer_le32: a buffer of uint32_t in the
 * host's order.  Every host sends what a little-endian host sends.  They carry
 * the names of the types they stand in for, which the description in the stream
 * repeats.
 *
 * In a header of their own, because nearly every file includes vmstate.h: what
 * is the same in the fork and in the stock base is compiled once for both.
 */
#ifndef MIGRATION_VMSTATE_LE_H
#define MIGRATION_VMSTATE_LE_H

#include "migration/vmstate.h"

extern const VMStateInfo vmstate_info_le16;
extern const VMStateInfo vmstate_info_le32;
extern const VMStateInfo vmstate_info_le64;
extern const VMStateInfo vmstate_info_buffer_le32;

#define VMSTATE_LE16(_f, _s)                                          \
    VMSTATE_SINGLE(_f, _s, 0, vmstate_info_le16, uint16_t)
#define VMSTATE_LE32(_f, _s)                                          \
    VMSTATE_SINGLE(_f, _s, 0, vmstate_info_le32, uint32_t)
#define VMSTATE_LE64(_f, _s)                                          \
    VMSTATE_SINGLE(_f, _s, 0, vmstate_info_le64, uint64_t)
#define VMSTATE_LE32_ARRAY(_f, _s, _n)                                \
    VMSTATE_ARRAY(_f, _s, _n, 0, vmstate_info_le32, uint32_t)
#define VMSTATE_BUFFER_LE32(_f, _s, _size)                            \
    VMSTATE_BUFFER_UNSAFE_INFO(_f, _s, 0, vmstate_info_buffer_le32, _size)

#endif
