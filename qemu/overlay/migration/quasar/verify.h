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

/* verify-devices.c; all with the BQL. */
void quasar_verify_devices_save(QEMUFile *f);
bool quasar_verify_devices_load(QEMUFile *f, Error **errp);
/* Destination, everything was loaded: is it what the source told? */
bool quasar_verify_devices_compare(Error **errp);
/* Sections that were compared, or whose digests were sent, in this move. */
uint32_t quasar_verify_sections(void);
void quasar_verify_devices_reset(void);

#endif
