/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ring.h"

#include <string.h>

static gsize beyond_base(gsize capacity)
{
    return capacity > QS_RING_BASE ? capacity - QS_RING_BASE : 0;
}

void qs_ring_init(QsRing *ring, gsize *purse)
{
    *ring = (QsRing){ .purse = purse };
}

void qs_ring_clear(QsRing *ring)
{
    *ring->purse += beyond_base(ring->capacity);
    g_free(ring->data);
    qs_ring_init(ring, ring->purse);
}

gsize qs_ring_could_hold(const QsRing *ring)
{
    gsize most = beyond_base(ring->capacity) + *ring->purse + QS_RING_BASE;
    gsize size = MAX(ring->capacity, QS_RING_BASE);

    while (size < QS_RING_MAX && size * 2 <= most) {
        size *= 2;
    }
    return size;
}

bool qs_ring_reserve(QsRing *ring, gsize size)
{
    gsize capacity = MAX(ring->capacity, QS_RING_BASE);
    guint8 *data;
    gsize first;

    if (size <= ring->capacity) {
        return true;
    }
    if (size > QS_RING_MAX) {
        return false;
    }
    while (capacity < size) {
        capacity *= 2;
    }
    if (beyond_base(capacity) - beyond_base(ring->capacity) > *ring->purse) {
        return false;
    }
    data = g_try_malloc(capacity);
    if (data == NULL) {
        return false;
    }
    /* All of it, for there may be bytes behind the used ones. */
    first = ring->capacity - ring->start;
    if (ring->capacity > 0) {
        memcpy(data, ring->data + ring->start, first);
        memcpy(data + first, ring->data, ring->start);
    }
    *ring->purse -= beyond_base(capacity) - beyond_base(ring->capacity);
    g_free(ring->data);
    ring->data = data;
    ring->capacity = capacity;
    ring->start = 0;
    return true;
}

guint qs_ring_pieces(const QsRing *ring, gsize offset, gsize size, struct iovec pieces[2])
{
    gsize at, first;

    g_assert(offset <= ring->capacity && size <= ring->capacity - offset);
    if (size == 0) {
        return 0;
    }
    at = (ring->start + offset) & (ring->capacity - 1);
    first = MIN(size, ring->capacity - at);
    pieces[0] = (struct iovec){ ring->data + at, first };
    pieces[1] = (struct iovec){ ring->data, size - first };
    return first < size ? 2 : 1;
}

void qs_ring_put(QsRing *ring, gsize offset, const guint8 *data, gsize size)
{
    struct iovec pieces[2];
    guint count = qs_ring_pieces(ring, offset, size, pieces);

    for (guint i = 0; i < count; i++) {
        memcpy(pieces[i].iov_base, data, pieces[i].iov_len);
        data += pieces[i].iov_len;
    }
}

void qs_ring_get(const QsRing *ring, gsize offset, guint8 *data, gsize size)
{
    struct iovec pieces[2];
    guint count = qs_ring_pieces(ring, offset, size, pieces);

    for (guint i = 0; i < count; i++) {
        memcpy(data, pieces[i].iov_base, pieces[i].iov_len);
        data += pieces[i].iov_len;
    }
}

void qs_ring_commit(QsRing *ring, gsize size)
{
    g_assert(size <= ring->capacity - ring->used);
    ring->used += size;
}

void qs_ring_drop(QsRing *ring, gsize size)
{
    g_assert(size <= ring->used);
    ring->used -= size;
    qs_ring_skip(ring, size);
}

void qs_ring_skip(QsRing *ring, gsize size)
{
    if (ring->capacity > 0) {
        ring->start = (ring->start + size) & (ring->capacity - 1);
    }
}
