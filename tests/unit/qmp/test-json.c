/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the bounded reader takes and refuses, and what its accessors make of numbers. */
#include "qmp/json.h"

#include <string.h>

typedef struct Case {
    const char *name, *text;
    int code; /* -1: taken */
} Case;

static const Case cases[] = {
    { "empty-object", "{}", -1 },
    { "nested", "{\"a\": [1, {\"b\": null}], \"c\": true}", -1 },
    { "escapes", "{\"a\": \"\\\"\\\\\\u00e9[[[\"}", -1 },
    { "largest-unsigned", "{\"a\": 18446744073709551615}", -1 },
    { "smallest-signed", "{\"a\": -9223372036854775808}", -1 },
    { "double", "{\"a\": -1.5e3}", -1 },
    { "nothing", "", QS_JSON_ERROR_SYNTAX },
    { "array", "[]", QS_JSON_ERROR_SYNTAX },
    { "cut-short", "{\"a\": [1", QS_JSON_ERROR_SYNTAX },
    { "cut-in-string", "{\"a", QS_JSON_ERROR_SYNTAX },
    { "cut-in-escape", "{\"a\\", QS_JSON_ERROR_SYNTAX },
    { "comma-too-many", "{\"a\": [1,]}", QS_JSON_ERROR_SYNTAX },
    { "comma-missing", "{\"a\": 1 \"b\": 2}", QS_JSON_ERROR_SYNTAX },
    { "crossed-brackets", "{\"a\": [}]", QS_JSON_ERROR_SYNTAX },
    { "two-objects", "{}{}", QS_JSON_ERROR_SYNTAX },
    { "key-is-number", "{1: 1}", QS_JSON_ERROR_SYNTAX },
    { "unknown-escape", "{\"a\": \"\\x\"}", QS_JSON_ERROR_SYNTAX },
    { "cut-unicode", "{\"a\": \"\\u12\"}", QS_JSON_ERROR_SYNTAX },
    { "fraction-empty", "{\"a\": 1.}", QS_JSON_ERROR_SYNTAX },
    { "exponent-empty", "{\"a\": 1e+}", QS_JSON_ERROR_SYNTAX },
    { "exponent", "{\"a\": 1E-7}", -1 },
    { "surrogates", "{\"a\": \"\\ud83d\\ude00\"}", -1 },
    { "half-a-pair", "{\"a\": \"\\ud83dx\"}", QS_JSON_ERROR_SYNTAX },
    { "two-first-halves", "{\"a\": \"\\ud83d\\ud83d\"}", QS_JSON_ERROR_SYNTAX },
    { "pair-cut-short", "{\"a\": \"\\ud83d\\ude0\"}", QS_JSON_ERROR_SYNTAX },
    { "second-half", "{\"a\": \"\\ude00\"}", QS_JSON_ERROR_SYNTAX },
    { "escaped-nul", "{\"a\": \"x\\u0000y\"}", QS_JSON_ERROR_SYNTAX },
    { "bracket-too-many", "{}}", QS_JSON_ERROR_SYNTAX },
    { "comment", "{/*\"*/}", QS_JSON_ERROR_SYNTAX },
    { "other-quotes", "{'a': 1}", QS_JSON_ERROR_SYNTAX },
    { "assignment", "var a = {}", QS_JSON_ERROR_SYNTAX },
    { "word", "{\"a\": nil}", QS_JSON_ERROR_SYNTAX },
    { "octal", "{\"a\": 010}", QS_JSON_ERROR_SYNTAX },
    { "two-signs", "{\"a\": --1}", QS_JSON_ERROR_SYNTAX },
    { "lone-sign", "{\"a\": -}", QS_JSON_ERROR_SYNTAX },
    { "newline-in-string", "{\"a\": \"\n\"}", QS_JSON_ERROR_SYNTAX },
    { "not-utf8", "{\"a\": \"\xff\"}", QS_JSON_ERROR_SYNTAX },
    { "beyond-unsigned", "{\"a\": 18446744073709551616}", QS_JSON_ERROR_LIMIT },
    { "beyond-signed", "{\"a\": -9223372036854775809}", QS_JSON_ERROR_LIMIT },
    { "folds-to-one", "{\"a\": -18446744073709551615}", QS_JSON_ERROR_LIMIT },
    { "long-number", "{\"a\": 1.00000000000000000000000000000000000000000001}",
      QS_JSON_ERROR_LIMIT },
};

static void test_case(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) object = qs_json_parse_object(c->text, strlen(c->text), &error);

    if (c->code < 0) {
        g_assert_no_error(error);
        g_assert_nonnull(object);
    } else {
        g_assert_error(error, QS_JSON_ERROR, c->code);
        g_assert_null(object);
    }
}

static JsonObject *repeated(const char *open, const char *piece, const char *close, guint count,
                            GError **error)
{
    g_autoptr(GString) text = g_string_new(open);

    for (guint i = 0; i < count; i++) {
        g_string_append(text, piece);
    }
    for (guint i = 0; g_str_equal(piece, "[") && i < count; i++) {
        g_string_append_c(text, ']');
    }
    g_string_append(text, close);
    return qs_json_parse_object(text->str, text->len, error);
}

static void test_limits(void)
{
    static const struct {
        const char *open, *piece, *close;
        guint most;
    } limits[] = {
        { "{\"a\": ", "[", "}", QS_JSON_DEPTH_MAX - 1 },
        /* the object, the array, the last value */
        { "{\"a\": [", "1,", "1]}", QS_JSON_VALUES_MAX - 3 },
        { "{\"a\": \"", "x", "\"}", QS_JSON_SIZE_MAX - 9 },
    };

    for (guint i = 0; i < G_N_ELEMENTS(limits); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(JsonObject) good =
            repeated(limits[i].open, limits[i].piece, limits[i].close, limits[i].most, &error);
        g_autoptr(JsonObject) bad = NULL;

        g_assert_no_error(error);
        g_assert_nonnull(good);
        bad =
            repeated(limits[i].open, limits[i].piece, limits[i].close, limits[i].most + 1, &error);
        g_assert_error(error, QS_JSON_ERROR, QS_JSON_ERROR_LIMIT);
        g_assert_null(bad);
    }
}

static void test_nul(void)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(qs_json_parse_object("{}\0{}", 5, &error));
    g_assert_error(error, QS_JSON_ERROR, QS_JSON_ERROR_SYNTAX);
}

static void test_numbers(void)
{
    static const struct {
        const char *text;
        guint64 value;
        int code;
    } rows[] = {
        { "{\"a\": 0}", 0, -1 },
        { "{\"a\": 9223372036854775806}", G_MAXINT64 - 1, -1 },
        { "{\"a\": 9223372036854775807}", 0, QS_JSON_ERROR_TYPE },
        { "{\"a\": 9223372036854775808}", 0, QS_JSON_ERROR_TYPE },
        { "{\"a\": 18446744073709551615}", 0, QS_JSON_ERROR_TYPE },
        { "{\"a\": -1}", 0, QS_JSON_ERROR_TYPE },
        { "{\"a\": 1.5}", 0, QS_JSON_ERROR_TYPE },
        { "{\"a\": \"1\"}", 0, QS_JSON_ERROR_TYPE },
        { "{\"a\": true}", 0, QS_JSON_ERROR_TYPE },
        { "{\"a\": null}", 0, QS_JSON_ERROR_TYPE },
        { "{\"b\": 1}", 0, QS_JSON_ERROR_MISSING },
    };

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(JsonObject) object =
            qs_json_parse_object(rows[i].text, strlen(rows[i].text), NULL);
        guint64 value = 77;

        g_assert_nonnull(object);
        if (rows[i].code < 0) {
            g_assert_true(qs_json_get_u64(object, "a", &value, &error));
            g_assert_cmpuint(value, ==, rows[i].value);
        } else {
            g_assert_false(qs_json_get_u64(object, "a", &value, &error));
            g_assert_error(error, QS_JSON_ERROR, rows[i].code);
            g_assert_cmpuint(value, ==, 77);
        }
    }
}

static void test_types(void)
{
    const char *text = "{\"s\": \"x\", \"b\": false, \"o\": {}, \"n\": null}";
    g_autoptr(JsonObject) object = qs_json_parse_object(text, strlen(text), NULL);
    g_autoptr(GError) error = NULL;
    bool flag = true;

    g_assert_cmpstr(qs_json_get_string(object, "s", NULL), ==, "x");
    g_assert_true(qs_json_get_bool(object, "b", &flag, NULL) && !flag);
    g_assert_nonnull(qs_json_get_object(object, "o", NULL));
    g_assert_null(qs_json_get_string(object, "n", NULL));
    g_assert_null(qs_json_get_object(object, "s", NULL));
    g_assert_false(qs_json_get_bool(object, "s", &flag, &error));
    g_assert_error(error, QS_JSON_ERROR, QS_JSON_ERROR_TYPE);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/json/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], test_case);
    }
    g_test_add_func("/json/limits", test_limits);
    g_test_add_func("/json/nul", test_nul);
    g_test_add_func("/json/numbers", test_numbers);
    g_test_add_func("/json/types", test_types);
    return g_test_run();
}
