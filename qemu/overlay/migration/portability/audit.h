/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which fields of a machine's state could depend on the host. */
#ifndef QUASAR_AUDIT_H
#define QUASAR_AUDIT_H

#include "qapi/qapi-types-quasar-portability.h"

typedef struct QuasarAuditField {
    const char *device;         /* section's name or device type */
    const char *state;          /* description that the field stands in */
    const char *field;
    const char *type;
    QuasarFieldKind kind;
    uint64_t size;
    bool neutral;
    const char *reason;         /* of the review, if it took one */
} QuasarAuditField;

typedef void QuasarAuditVisit(const QuasarAuditField *field, void *opaque);

/* With the BQL: each field once; returns the number of sections. */
uint32_t quasar_audit_machine(QuasarAuditVisit *visit, void *opaque);
uint32_t quasar_audit_types(QuasarAuditVisit *visit, void *opaque);

/*
 * The review of a field that is not typed: NULL if there was none, or why it
 * is @neutral or is not.
 */
const char *quasar_audit_reviewed(const QuasarAuditField *field,
                                  bool *neutral);

#endif
