/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Key/value payloads: what is read is written again byte for byte. */
#include <string.h>

#include "fuzz.h"
#include "support.h"
#include "wire/hello.h"

static void look_at_all(const QsKv *kv)
{
    static const char *const none[] = { NULL };

    for (guint i = 0; i < qs_kv_n_entries(kv); i++) {
        const char *key = qs_kv_key(kv, i);
        g_autofree char *line = qs_kv_describe(kv, i);
        g_autoptr(GBytes) bytes = qs_kv_get_bytes(kv, key, NULL);
        const char *text = qs_kv_get_string(kv, key, NULL);
        guint64 number;

        g_assert_true(qs_kv_has(kv, key));
        g_assert_true(g_utf8_validate(line, -1, NULL));
        g_assert_null(strpbrk(line, "\n\t\033"));
        g_assert_cmpint((bytes != NULL) + (text != NULL) + qs_kv_get_u64(kv, key, &number, NULL),
                        <=, 1);
    }
    qs_kv_check_known(kv, none, NULL);
}

static void as_hello(const QsKv *kv)
{
    static const QsTerms ours = { 4, 1u << 20, 64u << 20 };
    g_autoptr(QsKv) reply = qs_kv_new();
    g_autoptr(GError) error = NULL;
    QsTerms agreed;

    if (qs_hello_agree(kv, &ours, reply, &agreed, NULL)) {
        g_assert_true(qs_terms_check(&agreed, NULL));
        g_assert_true(qs_hello_confirm(reply, &ours, &agreed, NULL));
    }
    if (qs_hello_confirm(kv, &ours, &agreed, NULL)) {
        g_assert_cmpuint(agreed.lanes, <=, ours.lanes);
        g_assert_cmpuint(agreed.payload_max, <=, ours.payload_max);
    }
    g_assert_false(qs_refuse_report(kv, &error));
    g_assert_true(g_utf8_validate(error->message, -1, NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GBytes) payload = g_bytes_new(data, size);
    g_autoptr(GError) error = NULL;
    g_autoptr(QsKv) kv = qs_kv_decode(payload, &error);
    g_autoptr(GBytes) again = NULL;

    g_assert_true((kv != NULL) == (error == NULL));
    if (!kv) {
        return 0;
    }
    again = qs_kv_encode(kv, NULL);
    g_assert_nonnull(again);
    g_assert_true(g_bytes_equal(payload, again));
    look_at_all(kv);
    as_hello(kv);
    return 0;
}
