/* SPDX-License-Identifier: GPL-2.0-or-later */
/* verify=on: both ends compare what is in memory before the vote. */
#ifndef QUASAR_VERIFY_H
#define QUASAR_VERIFY_H

/* Source: whether the move that begins or ends sends its digests. */
void quasar_verify_set_outgoing(bool on);
/* Destination: a session begins, and nothing has been compared yet. */
void quasar_verify_reset(void);
/* Bytes that were compared, or whose digests were sent, in this move. */
uint64_t quasar_verify_bytes(void);

#endif
