/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The user's defaults: a flag wins over the environment, it over the user's file, it over /etc. */
#ifndef QS_CLI_SETTINGS_H
#define QS_CLI_SETTINGS_H

#include "vm/store.h"

/* Ends with NULL. */
const char *qs_setting_at(guint index, const char **ret_help);
/* Its value and where it comes from (a static word or a path borrowed from the store). */
bool qs_setting_get(const QsStore *store, const char *key, char **ret_value,
                    const char **ret_origin, GError **error);
/* In the user's file; NULL removes it. */
bool qs_setting_set(const QsStore *store, const char *key, const char *value, GError **error);

#endif
