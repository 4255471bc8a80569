/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What can be set, its limits and defaults. */
#include "qemu/osdep.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-builtin-visit.h"
#include "qapi/qapi-commands-quasar.h"
#include "move.h"
#include "settings.h"
#include "wire/encoder.h"

#define RESUME_SECONDS_MAX (24 * 3600)

static QuasarLimits settings = {
    .level = QS_LEVEL_NONE,
    .resume_seconds = 60,
    .disks = true,
};

const QuasarLimits *quasar_settings(void)
{
    return &settings;
}

static bool check(const QuasarSettings *wish, Error **errp)
{
    if (wish->has_lanes &&
        (wish->lanes < 1 || wish->lanes > QS_LANES_MAX)) {
        error_setg(errp, "lanes must be from 1 to %u, not %u", QS_LANES_MAX,
                   wish->lanes);
        return false;
    }
    if (wish->has_level &&
        (wish->level < QS_LEVEL_MIN || wish->level > QS_LEVEL_MAX)) {
        error_setg(errp, "level must be from %d to %d, not %" PRId64,
                   QS_LEVEL_MIN, QS_LEVEL_MAX, wish->level);
        return false;
    }
    if (wish->has_resume_timeout &&
        (wish->resume_timeout < 1 ||
         wish->resume_timeout > RESUME_SECONDS_MAX)) {
        error_setg(errp, "resume-timeout must be from 1 to %d seconds, "
                   "not %u", RESUME_SECONDS_MAX, wish->resume_timeout);
        return false;
    }
    return true;
}

void qmp_quasar_set(QuasarSettings *wish, Error **errp)
{
    if (!check(wish, errp)) {
        return;
    }
    if (wish->has_lanes) {
        settings.lanes = wish->lanes;
    }
    if (wish->has_level) {
        settings.level = wish->level;
        settings.level_set = true;
        quasar_move_set_level(wish->level);
    }
    if (wish->has_resume_timeout) {
        settings.resume_seconds = wish->resume_timeout;
    }
    if (wish->has_plain) {
        settings.plain = wish->plain;
    }
    if (wish->has_disks) {
        settings.disks = wish->disks;
    }
    if (wish->has_verify) {
        settings.verify = wish->verify;
    }
    if (wish->has_exclude_disks) {
        qapi_free_strList(settings.exclude_disks);
        settings.exclude_disks = QAPI_CLONE(strList, wish->exclude_disks);
    }
}
