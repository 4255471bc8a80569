/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What 'quasar-set' changes; guarded by the BQL. */
#ifndef QUASAR_SETTINGS_H
#define QUASAR_SETTINGS_H

#include "qapi/qapi-types-quasar.h"

typedef struct QuasarLimits {
    uint32_t lanes;           /* 0: not set, so chosen for each session */
    int level;
    bool level_set;           /* by the user */
    uint32_t resume_seconds;
    bool plain;
    bool disks;
    bool verify;
    strList *exclude_disks;
} QuasarLimits;

const QuasarLimits *quasar_settings(void);

#endif
