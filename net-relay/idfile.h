/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changing the identities file: always as a whole, always checked first, comments kept.
 */
#ifndef QS_RELAY_IDFILE_H
#define QS_RELAY_IDFILE_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>

/* An array of objects, without the secrets. */
JsonNode *qs_idfile_list(const char *path, GError **error);
/* Creates the file when there is none. `settings` are KEY=VALUE, ended by NULL. A secret is made
 * unless one, or a certificate, is among them; an address is chosen likewise. Returns the secret,
 * which is empty when there is none. */
char *qs_idfile_add(const char *path, const char *key, char **settings, GError **error);
bool qs_idfile_del(const char *path, const char *key, GError **error);

#endif
