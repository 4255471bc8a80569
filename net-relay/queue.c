/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "queue.h"

#include "protocol.h"

#include <string.h>

#define CONTROL_RESERVE 4096
#define START_SIZE 4096
/* An empty queue keeps at most so much memory. */
#define KEEP_SIZE (256 * 1024)

/* record <= head <= tail <= capacity: the first record not wholly sent, the first unsent byte, the
 * end. */
struct QsQueue {
    guint8 *data;
    gsize capacity;
    gsize record;
    gsize head;
    gsize tail;
    gsize sealed; /* bytes from `head` on */
    gsize limit;
};

QsQueue *qs_queue_new(gsize limit)
{
    QsQueue *queue = g_new0(QsQueue, 1);

    queue->limit = limit;
    return queue;
}

void qs_queue_free(QsQueue *queue)
{
    if (queue != NULL) {
        g_free(queue->data);
        g_free(queue);
    }
}

gsize qs_queue_size(const QsQueue *queue)
{
    return queue->tail - queue->head;
}

gsize qs_queue_limit(const QsQueue *queue)
{
    return queue->limit;
}

void qs_queue_set_limit(QsQueue *queue, gsize limit)
{
    queue->limit = limit;
}

void qs_queue_clear(QsQueue *queue)
{
    queue->record = queue->head = queue->tail = queue->sealed = 0;
    if (queue->capacity > KEEP_SIZE) {
        g_clear_pointer(&queue->data, g_free);
        queue->capacity = 0;
    }
}

static void make_room(QsQueue *queue, gsize need)
{
    gsize used = queue->tail - queue->record;

    if (queue->capacity - queue->tail >= need) {
        return;
    }
    if (queue->record > 0) {
        memmove(queue->data, queue->data + queue->record, used);
        queue->head -= queue->record;
        queue->tail = used;
        queue->record = 0;
    }
    /* Twice what is used, so that the bytes moved stay in proportion to the bytes pushed. */
    if (queue->capacity < 2 * (used + need)) {
        queue->capacity = MAX(2 * (used + need), (gsize)START_SIZE);
        queue->data = g_realloc(queue->data, queue->capacity);
    }
}

bool qs_queue_push(QsQueue *queue, guint8 type, const void *data, gsize size)
{
    gsize need = QS_RELAY_HEADER_SIZE + size;
    gsize limit = queue->limit + (type == QS_RELAY_FRAME ? 0 : CONTROL_RESERVE);

    if (queue->tail - queue->record + need > limit) {
        return false;
    }
    make_room(queue, need);
    qs_relay_put_header(queue->data + queue->tail, type, (uint32_t)size);
    if (size > 0) {
        memcpy(queue->data + queue->tail + QS_RELAY_HEADER_SIZE, data, size);
    }
    queue->tail += need;
    return true;
}

const guint8 *qs_queue_peek(const QsQueue *queue, gsize *ret_size)
{
    *ret_size = queue->tail - queue->head;
    return queue->data == NULL ? NULL : queue->data + queue->head;
}

static gsize record_size(const QsQueue *queue, gsize at)
{
    return QS_RELAY_HEADER_SIZE + (qs_relay_get32(queue->data + at) & 0xffffffu);
}

void qs_queue_seal(QsQueue *queue, gsize size)
{
    g_assert(size <= queue->tail - queue->head);
    queue->sealed = size;
}

/* Behind the last record that is begun or sealed. */
static gsize fixed_end(const QsQueue *queue)
{
    gsize at = queue->record;

    while (at < queue->head + queue->sealed) {
        at += record_size(queue, at);
    }
    return at;
}

void qs_queue_consume(QsQueue *queue, gsize size)
{
    g_assert(size <= queue->tail - queue->head);
    queue->head += size;
    queue->sealed -= MIN(queue->sealed, size);
    while (queue->record < queue->head) {
        gsize whole = record_size(queue, queue->record);

        if (queue->record + whole > queue->head) {
            break;
        }
        queue->record += whole;
    }
    if (queue->head == queue->tail) {
        qs_queue_clear(queue);
    }
}

guint qs_queue_move_frames(QsQueue *to, QsQueue *from)
{
    guint lost = 0;
    gsize at = from->record;

    while (at < from->tail) {
        gsize whole = record_size(from, at);

        if (from->data[at] == QS_RELAY_FRAME &&
            !qs_queue_push(to, QS_RELAY_FRAME, from->data + at + QS_RELAY_HEADER_SIZE,
                           whole - QS_RELAY_HEADER_SIZE)) {
            lost++;
        }
        at += whole;
    }
    from->tail = fixed_end(from);
    if (from->head == from->tail) {
        qs_queue_clear(from);
    }
    return lost;
}

guint qs_queue_withdraw_frames(QsQueue *to, QsQueue *from)
{
    gsize at = fixed_end(from);
    gsize end = from->tail;
    guint lost = 0;

    from->tail = at;
    while (at < end) {
        gsize whole = record_size(from, at);
        const guint8 *record = from->data + at;

        if (record[0] != QS_RELAY_FRAME) {
            memmove(from->data + from->tail, record, whole);
            from->tail += whole;
        } else if (!qs_queue_push(to, QS_RELAY_FRAME, record + QS_RELAY_HEADER_SIZE,
                                  whole - QS_RELAY_HEADER_SIZE)) {
            lost++;
        }
        at += whole;
    }
    if (from->head == from->tail) {
        qs_queue_clear(from);
    }
    return lost;
}

QsQueueFed qs_queue_feed(QsQueue *to, QsQueue *from, gsize most)
{
    QsQueueFed fed = { 0 };

    g_assert(from->record == from->head);
    while (from->head < from->tail && qs_queue_size(to) <= to->limit / 2 && fed.bytes < most) {
        gsize size = record_size(from, from->head) - QS_RELAY_HEADER_SIZE;

        if (!qs_queue_push(to, from->data[from->head],
                           from->data + from->head + QS_RELAY_HEADER_SIZE, size)) {
            break;
        }
        qs_queue_consume(from, QS_RELAY_HEADER_SIZE + size);
        fed.frames++;
        fed.bytes += size;
    }
    return fed;
}
