/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the ends of a session tell each other of their disks. */
#ifndef QUASAR_DISK_HELLO_H
#define QUASAR_DISK_HELLO_H

#include "qapi/qapi-types-quasar.h"
#include "disk.h"
#include "wire/kv.h"

/* Source: sets what HELLO says of the disks that go along. */
bool quasar_disk_offer(QsKv *hello, Error **errp);

/* Source: which of them the destination needs without their backing file. */
strList *quasar_disk_read_reply(const QsKv *reply);

/* Destination, main loop: notes which disks are there. */
bool quasar_disk_survey(Error **errp);

/* Destination, any thread: whether each disk of @offer has its place. */
bool quasar_disk_judge(const QsKv *offer, QsKv *reply, Error **errp);

/* Source: bytes that still have to be sent, as known now. */
uint64_t quasar_disk_left(void);

/* For query-quasar. */
QuasarDiskInfoList *quasar_disk_query(void);

#endif
