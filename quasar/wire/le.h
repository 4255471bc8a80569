/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Little-endian numbers at any alignment. Private to the format library and
 * its tests.
 */
#ifndef QS_WIRE_LE_H
#define QS_WIRE_LE_H

#include <glib.h>
#include <string.h>

static inline void qs_le_put16(guint8 *at, guint16 value)
{
    value = GUINT16_TO_LE(value);
    memcpy(at, &value, sizeof value);
}

static inline void qs_le_put32(guint8 *at, guint32 value)
{
    value = GUINT32_TO_LE(value);
    memcpy(at, &value, sizeof value);
}

static inline void qs_le_put64(guint8 *at, guint64 value)
{
    value = GUINT64_TO_LE(value);
    memcpy(at, &value, sizeof value);
}

static inline guint16 qs_le_get16(const guint8 *at)
{
    guint16 value;

    memcpy(&value, at, sizeof value);
    return GUINT16_FROM_LE(value);
}

static inline guint32 qs_le_get32(const guint8 *at)
{
    guint32 value;

    memcpy(&value, at, sizeof value);
    return GUINT32_FROM_LE(value);
}

static inline guint64 qs_le_get64(const guint8 *at)
{
    guint64 value;

    memcpy(&value, at, sizeof value);
    return GUINT64_FROM_LE(value);
}

#endif
