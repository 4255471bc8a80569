/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON from a peer: bounded before json-glib sees it, and read through checked accessors.
 *
 * json-glib's parser recurses, takes some 100 bytes a value, reads more than JSON (comments, two
 * kinds of quotes), leaks some of what is malformed, and folds integers it cannot hold into others.
 * So the text is walked once beforehand: what is not strict JSON, nests too deep, holds too many
 * values, or a number beyond 64 bits, is refused. An unsigned number above G_MAXINT64 arrives as a
 * negative one; qs_json_get_u64() refuses it, since it cannot tell which it was.
 */
#ifndef QS_QMP_JSON_H
#define QS_QMP_JSON_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>

#define QS_JSON_SIZE_MAX (1024u * 1024u)
#define QS_JSON_DEPTH_MAX 32u
#define QS_JSON_VALUES_MAX 32768u

#define QS_JSON_ERROR (qs_json_error_quark())

typedef enum QsJsonError {
    QS_JSON_ERROR_SYNTAX,  /* not JSON, or not an object where one is needed */
    QS_JSON_ERROR_LIMIT,   /* too long, too deep, too many values, a number too large */
    QS_JSON_ERROR_MISSING, /* a member that is not there */
    QS_JSON_ERROR_TYPE,    /* a member of another type or range */
} QsJsonError;

GQuark qs_json_error_quark(void);

/* One object and nothing besides. */
JsonObject *qs_json_parse_object(const char *text, gsize size, GError **error);

bool qs_json_get_u64(JsonObject *object, const char *name, guint64 *ret_value, GError **error);
bool qs_json_get_bool(JsonObject *object, const char *name, bool *ret_value, GError **error);
/* Borrowed from the object; NULL with an error. */
const char *qs_json_get_string(JsonObject *object, const char *name, GError **error);
JsonObject *qs_json_get_object(JsonObject *object, const char *name, GError **error);

/* On one line, or for people. */
char *qs_json_text(JsonObject *object, bool pretty);

#endif
