/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qmp/json.h"

#include <errno.h>
#include <string.h>

/* clang-format off */
G_DEFINE_QUARK(qs-json-error-quark, qs_json_error)
/* clang-format on */

/* No 64-bit integer and no double that is worth reading takes more. */
#define NUMBER_MAX 40u

/*
 * The grammar, walked without building anything. json-glib is given only what passed: it is not
 * trusted with malformed text, of which it leaks parts.
 */
typedef struct Walk {
    const char *text;
    gsize size, at;
    guint depth, values;
    GError **error;
} Walk;

static bool walk_value(Walk *w);

static bool refuse(GError **error, QsJsonError code, gsize at, const char *what)
{
    g_set_error(error, QS_JSON_ERROR, code, "%s at byte %" G_GSIZE_FORMAT, what, at);
    return false;
}

static bool syntax(const Walk *w, const char *what)
{
    return refuse(w->error, QS_JSON_ERROR_SYNTAX, w->at, what);
}

static bool limit(const Walk *w, const char *what)
{
    return refuse(w->error, QS_JSON_ERROR_LIMIT, w->at, what);
}

/* The next byte that means something; NUL at the end, since the text holds none. */
static char peek(Walk *w)
{
    while (w->at < w->size && strchr(" \t\r\n", w->text[w->at]) != NULL) {
        w->at++;
    }
    return w->at < w->size ? w->text[w->at] : '\0';
}

/* The four digits behind \u. */
static bool walk_unit(Walk *w, guint *ret_unit)
{
    guint unit = 0;

    for (guint i = 0; i < 4; i++, w->at++) {
        if (w->at >= w->size || !g_ascii_isxdigit(w->text[w->at])) {
            return syntax(w, "a malformed escape");
        }
        unit = unit << 4 | (guint)g_ascii_xdigit_value(w->text[w->at]);
    }
    *ret_unit = unit;
    return true;
}

/* json-glib would make text of half a pair that is no UTF-8, and end a string at a NUL. */
static bool walk_escape(Walk *w)
{
    char c = w->at < w->size ? w->text[w->at++] : '\0';
    guint unit = 0, low = 0;

    if (c != 'u') {
        return (c != '\0' && strchr("\"\\/bfnrt", c) != NULL) || syntax(w, "a malformed escape");
    }
    if (!walk_unit(w, &unit)) {
        return false;
    }
    if (unit >= 0xd800 && unit < 0xdc00 && w->size - w->at >= 6 && w->text[w->at] == '\\' &&
        w->text[w->at + 1] == 'u') {
        w->at += 2;
        if (!walk_unit(w, &low)) {
            return false;
        }
        return (low >= 0xdc00 && low < 0xe000) || syntax(w, "half a pair of escapes");
    }
    return (unit != 0 && (unit < 0xd800 || unit >= 0xe000)) ||
           syntax(w, "an escape of no character");
}

static bool walk_string(Walk *w)
{
    for (w->at++; w->at < w->size;) {
        char c = w->text[w->at++];

        if (c == '"') {
            return true;
        }
        if ((guchar)c < 0x20) {
            return syntax(w, "a control character in a string");
        }
        if (c == '\\' && !walk_escape(w)) {
            return false;
        }
    }
    return syntax(w, "a string without an end");
}

/* -?digits[.digits][e[+-]digits], without a zero in front, as json-glib would read it as octal. */
static bool is_number(const char *number, bool *ret_whole)
{
    const char *at = number + (*number == '-');
    const char *digits = at;

    while (g_ascii_isdigit(*at)) {
        at++;
    }
    if (at == digits || (*digits == '0' && at - digits > 1)) {
        return false;
    }
    *ret_whole = *at == '\0';
    if (*at == '.') {
        digits = ++at;
        while (g_ascii_isdigit(*at)) {
            at++;
        }
        if (at == digits) {
            return false;
        }
    }
    if (*at == 'e' || *at == 'E') {
        at += at[1] == '+' || at[1] == '-' ? 2 : 1;
        digits = at;
        while (g_ascii_isdigit(*at)) {
            at++;
        }
        if (at == digits) {
            return false;
        }
    }
    return *at == '\0';
}

static bool walk_number(Walk *w)
{
    char number[NUMBER_MAX + 1];
    gsize length = 0;
    bool whole = false;

    while (w->at + length < w->size && strchr("+-.eE0123456789", w->text[w->at + length]) != NULL) {
        if (length == NUMBER_MAX) {
            return limit(w, "a number too long");
        }
        number[length] = w->text[w->at + length];
        length++;
    }
    number[length] = '\0';
    if (!is_number(number, &whole)) {
        return syntax(w, "a malformed number");
    }
    errno = 0;
    if (whole && number[0] == '-') {
        g_ascii_strtoll(number, NULL, 10);
    } else if (whole) {
        g_ascii_strtoull(number, NULL, 10);
    }
    if (errno != 0) {
        return limit(w, "a number too large");
    }
    w->at += length;
    return true;
}

static bool walk_word(Walk *w)
{
    static const char *const words[] = { "true", "false", "null" };

    for (guint i = 0; i < G_N_ELEMENTS(words); i++) {
        gsize length = strlen(words[i]);

        if (w->size - w->at >= length && memcmp(w->text + w->at, words[i], length) == 0) {
            w->at += length;
            return true;
        }
    }
    return syntax(w, "something that is not JSON");
}

static bool walk_key(Walk *w)
{
    if (peek(w) != '"') {
        return syntax(w, "a malformed member");
    }
    if (!walk_string(w)) {
        return false;
    }
    if (peek(w) != ':') {
        return syntax(w, "a malformed member");
    }
    w->at++;
    return true;
}

/* An array or an object, from its opening bracket on. */
static bool walk_container(Walk *w, char end)
{
    if (++w->depth > QS_JSON_DEPTH_MAX) {
        return limit(w, "too deep a nesting");
    }
    w->at++;
    if (peek(w) != end) {
        for (;;) {
            if ((end == '}' && !walk_key(w)) || !walk_value(w)) {
                return false;
            }
            if (peek(w) != ',') {
                break;
            }
            w->at++;
        }
    }
    if (peek(w) != end) {
        return syntax(w, "an end that is missing");
    }
    w->at++;
    w->depth--;
    return true;
}

static bool walk_value(Walk *w)
{
    char c = peek(w);

    if (++w->values > QS_JSON_VALUES_MAX) {
        return limit(w, "too many values");
    }
    if (c == '{' || c == '[') {
        return walk_container(w, c == '{' ? '}' : ']');
    }
    if (c == '"') {
        return walk_string(w);
    }
    return c == '-' || g_ascii_isdigit(c) ? walk_number(w) : walk_word(w);
}

static bool walk(const char *text, gsize size, GError **error)
{
    Walk w = { .text = text, .size = size, .error = error };

    if (peek(&w) != '{') {
        return syntax(&w, "no object");
    }
    return walk_value(&w) && (peek(&w) == '\0' || syntax(&w, "something behind the object"));
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
    /* What does not fit becomes negative or the largest, as json-glib's version has it. */
    if (!holds(node, G_TYPE_INT64) || json_node_get_int(node) < 0 ||
        json_node_get_int(node) == G_MAXINT64) {
        wrong_type(error, name, "a whole number from 0 to 2^63 - 2");
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
