/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Key/value payloads. */
#include <string.h>

#include "support.h"
#include "wire/kv.h"

static QsKv *sample(void)
{
    QsKv *kv = qs_kv_new();

    qs_kv_set_string(kv, "vm.name", "web-1 \xc3\xa4\tx\ny");
    qs_kv_set_u64(kv, "wire.lanes", G_MAXUINT64);
    qs_kv_set_bytes(kv, "blob", "\0\1\2", 3);
    qs_kv_set_string(kv, "empty", "");
    qs_kv_set_bytes(kv, "nothing", NULL, 0);
    qs_kv_set_u64(kv, "a", 7);
    qs_kv_require(kv, "wire.lanes");
    return kv;
}

static void test_round_trip(void)
{
    g_autoptr(QsKv) kv = sample();
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) bytes = qs_kv_encode(kv, &error);
    g_autoptr(QsKv) back = NULL;
    g_autoptr(GBytes) blob = NULL;
    g_autoptr(GBytes) again = NULL;
    guint64 number;

    g_assert_no_error(error);
    back = qs_kv_decode(bytes, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(qs_kv_n_entries(back), ==, 6);
    g_assert_cmpstr(qs_kv_key(back, 0), ==, "a");
    g_assert_cmpstr(qs_kv_key(back, 5), ==, "wire.lanes");
    g_assert_true(qs_kv_get_u64(back, "wire.lanes", &number, NULL));
    g_assert_cmpuint(number, ==, G_MAXUINT64);
    g_assert_cmpstr(qs_kv_get_string(back, "vm.name", NULL), ==, "web-1 \xc3\xa4\tx\ny");
    g_assert_cmpstr(qs_kv_get_string(back, "empty", NULL), ==, "");
    blob = qs_kv_get_bytes(back, "blob", NULL);
    g_assert_cmpmem(g_bytes_get_data(blob, NULL), g_bytes_get_size(blob), "\0\1\2", 3);
    again = qs_kv_encode(back, NULL);
    g_assert_true(g_bytes_equal(bytes, again));
}

static void test_replace(void)
{
    g_autoptr(QsKv) kv = qs_kv_new();
    guint64 number;

    qs_kv_set_string(kv, "x", "text");
    qs_kv_set_u64(kv, "x", 5);
    g_assert_cmpuint(qs_kv_n_entries(kv), ==, 1);
    g_assert_true(qs_kv_get_u64(kv, "x", &number, NULL));
    g_assert_cmpuint(number, ==, 5);
}

static void test_get_faults(void)
{
    g_autoptr(QsKv) kv = sample();
    g_autoptr(GError) error = NULL;
    guint64 number = 3;

    g_assert_false(qs_kv_get_u64(kv, "absent", &number, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_KEY);
    g_assert_false(qs_kv_get_u64(kv, "vm.name", &number, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_KEY);
    g_assert_cmpuint(number, ==, 3);
    g_assert_null(qs_kv_get_string(kv, "blob", &error));
    t_assert_fault(&error, QS_WIRE_ERROR_KEY);
    g_assert_null(qs_kv_get_bytes(kv, "a", &error));
    t_assert_fault(&error, QS_WIRE_ERROR_KEY);
    g_assert_true(qs_kv_has(kv, "a"));
    g_assert_false(qs_kv_has(kv, "b"));
}

static void test_known(void)
{
    static const char *const none[] = { "a", NULL };
    static const char *const exact[] = { "x", "wire.lanes", NULL };
    static const char *const family[] = { "wire.*", NULL };
    g_autoptr(QsKv) kv = sample();
    g_autoptr(GError) error = NULL;

    g_assert_false(qs_kv_check_known(kv, none, &error));
    g_assert_nonnull(strstr(error->message, "wire.lanes"));
    t_assert_fault(&error, QS_WIRE_ERROR_KEY);
    g_assert_true(qs_kv_check_known(kv, exact, NULL));
    g_assert_true(qs_kv_check_known(kv, family, NULL));
}

static void test_describe(void)
{
    g_autoptr(QsKv) kv = sample();
    g_autofree char *number = qs_kv_describe(kv, 0);
    g_autofree char *blob = qs_kv_describe(kv, 1);
    g_autofree char *empty = qs_kv_describe(kv, 2);
    g_autofree char *name = qs_kv_describe(kv, 4);

    g_assert_cmpstr(number, ==, "a = 7");
    g_assert_cmpstr(blob, ==, "blob = 3 bytes (type 3)");
    g_assert_cmpstr(empty, ==, "empty = \"\"");
    g_assert_cmpstr(name, ==, "vm.name = \"web-1 \xc3\xa4 x y\"");
}

static void assert_unencodable(QsKv *kv, QsWireError code)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(qs_kv_encode(kv, &error));
    t_assert_fault(&error, code);
    g_assert_null(qs_kv_encode(kv, NULL));
}

static void test_bad_keys(void)
{
    static const char *const keys[] = {
        "",    "1a",  "A",
        "a_b", "a b", "\xc3\xa4",
        "-a",  "a\n", "a2345678901234567890123456789012345678901234567890123456789012345",
    };

    for (gsize i = 0; i < G_N_ELEMENTS(keys); i++) {
        g_autoptr(QsKv) kv = qs_kv_new();

        qs_kv_set_u64(kv, keys[i], 1);
        assert_unencodable(kv, QS_WIRE_ERROR_KV);
    }
}

static void test_bad_strings(void)
{
    static const char *const strings[] = {
        "\x1b[31m", "\r", "\x7f", "\xc2\x9bq", "\xff", "\xc0\x80", "\xed\xa0\x80",
    };

    for (gsize i = 0; i < G_N_ELEMENTS(strings); i++) {
        g_autoptr(QsKv) kv = qs_kv_new();

        qs_kv_set_string(kv, "x", strings[i]);
        assert_unencodable(kv, QS_WIRE_ERROR_KV);
    }
}

static void test_too_much(void)
{
    g_autoptr(QsKv) many = qs_kv_new();
    g_autoptr(QsKv) large = qs_kv_new();
    g_autoptr(QsKv) larger = qs_kv_new();
    g_autoptr(QsKv) absent = qs_kv_new();
    g_autoptr(GBytes) full = NULL;
    g_autoptr(QsKv) back = NULL;
    g_autofree char *memory = g_malloc0(QS_CONTROL_MAX + 1);

    for (guint i = 0; i < QS_KV_ENTRIES_MAX; i++) {
        g_autofree char *key = g_strdup_printf("k%u", i);

        qs_kv_set_u64(many, key, i);
    }
    full = qs_kv_encode(many, NULL);
    g_assert_nonnull(full);
    back = qs_kv_decode(full, NULL);
    g_assert_cmpuint(qs_kv_n_entries(back), ==, QS_KV_ENTRIES_MAX);
    qs_kv_set_u64(many, "one-more", 1);
    assert_unencodable(many, QS_WIRE_ERROR_KV);

    qs_kv_set_bytes(large, "x", memory, QS_CONTROL_MAX - 9);
    g_clear_pointer(&full, g_bytes_unref);
    full = qs_kv_encode(large, NULL);
    g_assert_cmpuint(g_bytes_get_size(full), ==, QS_CONTROL_MAX);
    qs_kv_set_u64(large, "y", 1);
    assert_unencodable(large, QS_WIRE_ERROR_TOO_LARGE);

    qs_kv_set_bytes(larger, "x", memory, QS_CONTROL_MAX + 1);
    assert_unencodable(larger, QS_WIRE_ERROR_KV);
    qs_kv_require(absent, "x");
    assert_unencodable(absent, QS_WIRE_ERROR_KV);
}

static bool decodes(const guint8 *bytes, gsize len)
{
    g_autoptr(GBytes) payload = g_bytes_new(bytes, len);
    g_autoptr(GError) error = NULL;
    g_autoptr(QsKv) kv = qs_kv_decode(payload, &error);

    if (!kv) {
        t_assert_fault(&error, QS_WIRE_ERROR_KV);
        return false;
    }
    return true;
}

/* Words from elsewhere always arrive. */
static void test_words(void)
{
    static const struct {
        const char *words, *arrive;
    } cases[] = {
        { "", "" },
        { "plain\twords\n", "plain\twords\n" },
        { "caf\xe9 is Latin-1", "caf\xef\xbf\xbd is Latin-1" },
        { "\x1b[31mred\x7f", " [31mred " },
        { "\xc2\x9b", " " },
    };
    g_autofree char *longer = g_strnfill(100000, 'x');
    g_autofree char *wrong = g_strnfill(100000, '\xff');
    const char *many[] = { longer, wrong };

    for (guint i = 0; i < G_N_ELEMENTS(cases) + G_N_ELEMENTS(many); i++) {
        bool one = i < G_N_ELEMENTS(cases);
        g_autoptr(QsKv) kv = qs_kv_new(), back = NULL;
        g_autoptr(GBytes) bytes = NULL;
        const char *text;

        qs_kv_set_words(kv, "words", one ? cases[i].words : many[i - G_N_ELEMENTS(cases)]);
        bytes = qs_kv_encode(kv, NULL);
        g_assert_nonnull(bytes);
        back = qs_kv_decode(bytes, NULL);
        g_assert_nonnull(back);
        text = qs_kv_get_string(back, "words", NULL);
        if (one) {
            g_assert_cmpstr(text, ==, cases[i].arrive);
        } else {
            g_assert_cmpuint(strlen(text), <=, QS_KV_WORDS_MAX);
            g_assert_cmpuint(strlen(text), >, QS_KV_WORDS_MAX - 8);
        }
    }
}

/* Every shorter payload is refused unless it ends between two entries. */
static void test_truncated(void)
{
    g_autoptr(QsKv) kv = sample();
    g_autoptr(GBytes) bytes = qs_kv_encode(kv, NULL);
    gsize size;
    const guint8 *data = g_bytes_get_data(bytes, &size);
    guint good = 0;

    for (gsize len = 0; len <= size; len++) {
        good += decodes(data, len);
    }
    g_assert_cmpuint(good, ==, 7);
}

/* versions of clang-format disagree about macros that are initialisers */
/* clang-format off */
#define ENTRY(type, flags, key_len, len, rest) \
    { (const guint8 *)type flags key_len "\0" len "\0\0\0" rest, \
      sizeof(type flags key_len "\0" len "\0\0\0" rest) - 1 }
/* clang-format on */

static void test_malformed(void)
{
    static const struct {
        const guint8 *bytes;
        gsize len;
    } bad[] = {
        ENTRY("\1", "\0", "\1", "\7", "x1234567"),    /* short number */
        ENTRY("\1", "\0", "\1", "\11", "x123456789"), /* long number */
        ENTRY("\2", "\0", "\1", "\2", "xa\xff"),      /* not UTF-8 */
        ENTRY("\2", "\0", "\1", "\3", "xa\0b"),       /* NUL inside */
        ENTRY("\2", "\0", "\1", "\2", "xa\33"),       /* escape */
        ENTRY("\0", "\0", "\1", "\1", "xa"),          /* type 0 */
        ENTRY("\4", "\1", "\1", "\1", "xa"),          /* unknown type, required */
        ENTRY("\3", "\2", "\1", "\1", "xa"),          /* unknown flag */
        ENTRY("\3", "\0", "\0", "\1", "a"),           /* no key */
        ENTRY("\3", "\0", "\1", "\1", "Xa"),          /* key of other letters */
        ENTRY("\3", "\0", "\1", "\2", "xa"),          /* longer than what is left */
        ENTRY("\3", "\0", "\7", "\1", "xa"),          /* key longer than what is left */
    };
    static const char twice[] = "\3\0\1\0\0\0\0\0x\3\0\1\0\0\0\0\0x";
    static const char backwards[] = "\3\0\1\0\0\0\0\0x\3\0\1\0\0\0\0\0w";
    static const char wraps[] = "\3\0\1\0\377\377\377\377x";

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_false(decodes(bad[i].bytes, bad[i].len));
    }
    g_assert_false(decodes((const guint8 *)twice, sizeof twice - 1));
    g_assert_false(decodes((const guint8 *)backwards, sizeof backwards - 1));
    g_assert_false(decodes((const guint8 *)wraps, sizeof wraps - 1));
}

/* An optional entry of a future type is kept, shown and written back. */
static void test_future_type(void)
{
    static const char future[] = "\x09\0\1\0\2\0\0\0xab";
    g_autoptr(GBytes) payload = g_bytes_new_static(future, sizeof future - 1);
    g_autoptr(QsKv) kv = qs_kv_decode(payload, NULL);
    g_autoptr(GBytes) back = NULL;
    g_autofree char *line = NULL;

    g_assert_nonnull(kv);
    line = qs_kv_describe(kv, 0);
    g_assert_cmpstr(line, ==, "x = 2 bytes (type 9)");
    back = qs_kv_encode(kv, NULL);
    g_assert_true(g_bytes_equal(payload, back));
}

static void test_too_long(void)
{
    g_autofree guint8 *memory = g_malloc0(QS_CONTROL_MAX + 1);
    g_autoptr(GByteArray) many = g_byte_array_new();

    g_assert_false(decodes(memory, QS_CONTROL_MAX + 1));
    for (guint i = 0; i <= QS_KV_ENTRIES_MAX; i++) {
        g_autofree char *key = g_strdup_printf("k%03u", i);

        g_byte_array_append(many, (const guint8 *)"\3\0\4\0\0\0\0\0", 8);
        g_byte_array_append(many, (const guint8 *)key, 4);
    }
    g_assert_true(decodes(many->data, many->len - 12));
    g_assert_false(decodes(many->data, many->len));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/kv/round-trip", test_round_trip);
    g_test_add_func("/wire/kv/replace", test_replace);
    g_test_add_func("/wire/kv/get-faults", test_get_faults);
    g_test_add_func("/wire/kv/known", test_known);
    g_test_add_func("/wire/kv/describe", test_describe);
    g_test_add_func("/wire/kv/bad-keys", test_bad_keys);
    g_test_add_func("/wire/kv/bad-strings", test_bad_strings);
    g_test_add_func("/wire/kv/too-much", test_too_much);
    g_test_add_func("/wire/kv/words", test_words);
    g_test_add_func("/wire/kv/truncated", test_truncated);
    g_test_add_func("/wire/kv/malformed", test_malformed);
    g_test_add_func("/wire/kv/future-type", test_future_type);
    g_test_add_func("/wire/kv/too-long", test_too_long);
    return g_test_run();
}
