/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qmp/json.h"

#include <errno.h>
#include <string.h>

/* clang-format off */
G_DEFINE_QUARK(qs-json-error-quark, qs_json_error)
/* clang-format on */

/* No 64-bit integer and no double that is worth reading takes more. */
#define NUMBER_MAX 40u

static bool refuse(GError **error, QsJsonError code, gsize at, const char *what)
{
    g_set_error(error, QS_JSON_ERROR, code, "%s at byte %" G_GSIZE_FORMAT, what, at);
    return false;
}

static bool walk_string(const char *text, gsize size, gsize *at, GError **error)
{
    for (gsize i = *at + 1; i < size; i++) {
        if (text[i] == '"') {
            *at = i + 1;
            return true;
        }
        if ((guchar)text[i] < 0x20) {
            return refuse(error, QS_JSON_ERROR_SYNTAX, i, "a control character in a string");
        }
        if (text[i] == '\\') {
            i++;
        }
    }
    return refuse(error, QS_JSON_ERROR_SYNTAX, *at, "a string without an end");
}

static bool walk_number(const char *text, gsize size, gsize *at, GError **error)
{
    char number[NUMBER_MAX + 1];
    gsize length = 0;
    bool whole = true;

    while (*at + length < size && text[*at + length] != '\0' &&
           strchr("+-.eE0123456789", text[*at + length]) != NULL) {
        if (length == NUMBER_MAX) {
            return refuse(error, QS_JSON_ERROR_LIMIT, *at, "a number too long");
        }
        whole = whole && strchr(".eE", text[*at + length]) == NULL;
        number[length] = text[*at + length];
        length++;
    }
    number[length] = '\0';
    /* json-glib would read 010 as eight. */
    if (!g_ascii_isdigit(number[length - 1]) ||
        (number[number[0] == '-'] == '0' && g_ascii_isdigit(number[1 + (number[0] == '-')]))) {
        return refuse(error, QS_JSON_ERROR_SYNTAX, *at, "a malformed number");
    }
    errno = 0;
    if (whole) {
        char *end;

        if (number[0] == '-') {
            g_ascii_strtoll(number, &end, 10);
        } else {
            g_ascii_strtoull(number, &end, 10);
        }
        if (errno != 0 || *end != '\0') {
            return refuse(error, errno != 0 ? QS_JSON_ERROR_LIMIT : QS_JSON_ERROR_SYNTAX, *at,
                          errno != 0 ? "a number too large" : "a malformed number");
        }
    }
    *at += length;
    return true;
}

static bool walk_word(const char *text, gsize size, gsize *at, GError **error)
{
    static const char *const words[] = { "true", "false", "null" };

    for (guint i = 0; i < G_N_ELEMENTS(words); i++) {
        gsize length = strlen(words[i]);

        if (size - *at >= length && memcmp(text + *at, words[i], length) == 0) {
            *at += length;
            return true;
        }
    }
    return refuse(error, QS_JSON_ERROR_SYNTAX, *at, "something that is not JSON");
}

static bool walk_value(const char *text, gsize size, gsize *at, GError **error)
{
    if (text[*at] == '"') {
        return walk_string(text, size, at, error);
    }
    if (text[*at] == '-' || g_ascii_isdigit(text[*at])) {
        return walk_number(text, size, at, error);
    }
    return walk_word(text, size, at, error);
}

/* The limits alone; whether brackets and commas are in place is json-glib's to say. */
static bool walk(const char *text, gsize size, GError **error)
{
    guint depth = 0, values = 0;
    gsize at = 0;

    while (at < size) {
        char c = text[at];

        if (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ',' || c == ':') {
            at++;
            continue;
        }
        if (c == ']' || c == '}') {
            if (depth-- == 0) {
                return refuse(error, QS_JSON_ERROR_SYNTAX, at, "a bracket too many");
            }
            at++;
            continue;
        }
        if (++values > QS_JSON_VALUES_MAX) {
            return refuse(error, QS_JSON_ERROR_LIMIT, at, "too many values");
        }
        if (c == '[' || c == '{') {
            if (++depth > QS_JSON_DEPTH_MAX) {
                return refuse(error, QS_JSON_ERROR_LIMIT, at, "too deep a nesting");
            }
            at++;
        } else if (!walk_value(text, size, &at, error)) {
            return false;
        }
    }
    return depth == 0 || refuse(error, QS_JSON_ERROR_SYNTAX, at, "an end too early");
}

JsonObject *qs_json_parse_object(const char *text, gsize size, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    g_autoptr(GError) own = NULL;
    JsonNode *root;

    if (size > QS_JSON_SIZE_MAX) {
        refuse(error, QS_JSON_ERROR_LIMIT, QS_JSON_SIZE_MAX, "too long a text");
        return NULL;
    }
    if (!g_utf8_validate_len(text, size, NULL)) {
        refuse(error, QS_JSON_ERROR_SYNTAX, 0, "text that is not UTF-8");
        return NULL;
    }
    if (!walk(text, size, error)) {
        return NULL;
    }
    if (!json_parser_load_from_data(parser, text, (gssize)size, &own)) {
        g_set_error(error, QS_JSON_ERROR, QS_JSON_ERROR_SYNTAX, "not JSON: %s", own->message);
        return NULL;
    }
    root = json_parser_get_root(parser);
    if (root == NULL || !JSON_NODE_HOLDS_OBJECT(root)) {
        refuse(error, QS_JSON_ERROR_SYNTAX, 0, "no object");
        return NULL;
    }
    return json_object_ref(json_node_get_object(root));
}

static JsonNode *member(JsonObject *object, const char *name, GError **error)
{
    JsonNode *node = json_object_get_member(object, name);

    if (node == NULL) {
        g_set_error(error, QS_JSON_ERROR, QS_JSON_ERROR_MISSING, "\"%s\" is missing", name);
    }
    return node;
}

static void wrong_type(GError **error, const char *name, const char *wanted)
{
    g_set_error(error, QS_JSON_ERROR, QS_JSON_ERROR_TYPE, "\"%s\" is not %s", name, wanted);
}

static bool holds(JsonNode *node, GType type)
{
    return JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == type;
}

bool qs_json_get_u64(JsonObject *object, const char *name, guint64 *ret_value, GError **error)
{
    JsonNode *node = member(object, name, error);

    if (node == NULL) {
        return false;
    }
    if (!holds(node, G_TYPE_INT64) || json_node_get_int(node) < 0) {
        wrong_type(error, name, "a whole number from 0 to 2^63 - 1");
        return false;
    }
    *ret_value = (guint64)json_node_get_int(node);
    return true;
}

bool qs_json_get_bool(JsonObject *object, const char *name, bool *ret_value, GError **error)
{
    JsonNode *node = member(object, name, error);

    if (node == NULL) {
        return false;
    }
    if (!holds(node, G_TYPE_BOOLEAN)) {
        wrong_type(error, name, "true or false");
        return false;
    }
    *ret_value = json_node_get_boolean(node);
    return true;
}

const char *qs_json_get_string(JsonObject *object, const char *name, GError **error)
{
    JsonNode *node = member(object, name, error);

    if (node == NULL) {
        return NULL;
    }
    if (!holds(node, G_TYPE_STRING)) {
        wrong_type(error, name, "a string");
        return NULL;
    }
    return json_node_get_string(node);
}

JsonObject *qs_json_get_object(JsonObject *object, const char *name, GError **error)
{
    JsonNode *node = member(object, name, error);

    if (node == NULL) {
        return NULL;
    }
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        wrong_type(error, name, "an object");
        return NULL;
    }
    return json_node_get_object(node);
}

char *qs_json_text(JsonObject *object, bool pretty)
{
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);

    json_node_set_object(node, object);
    return json_to_string(node, pretty);
}
