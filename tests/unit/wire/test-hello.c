/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Terms and refusals. */
#include <string.h>

#include "support.h"
#include "wire/hello.h"

static const QsTerms ours = { .lanes = 4, .payload_max = 1u << 20, .ring_bytes = 64u << 20 };
static const QsTerms theirs = { .lanes = 8, .payload_max = 256u << 10, .ring_bytes = 32u << 20 };

static void test_agree(void)
{
    g_autoptr(QsKv) offer = qs_kv_new();
    g_autoptr(QsKv) reply = qs_kv_new();
    g_autoptr(GError) error = NULL;
    QsTerms at_listener, at_dialler;

    qs_hello_offer(offer, &ours);
    g_assert_true(qs_hello_agree(offer, &theirs, reply, &at_listener, &error));
    g_assert_no_error(error);
    g_assert_true(qs_hello_confirm(reply, &ours, &at_dialler, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(at_listener.lanes, ==, 4);
    g_assert_cmpuint(at_listener.payload_max, ==, 256u << 10);
    g_assert_cmpuint(at_listener.ring_bytes, ==, 32u << 20);
    g_assert_cmpuint(at_dialler.lanes, ==, at_listener.lanes);
    g_assert_cmpuint(at_dialler.payload_max, ==, at_listener.payload_max);
    g_assert_cmpuint(at_dialler.ring_bytes, ==, at_listener.ring_bytes);
}

/* Offers of more than exists are no fault, and do not wrap. */
static void test_generous_offer(void)
{
    g_autoptr(QsKv) offer = qs_kv_new();
    g_autoptr(QsKv) reply = qs_kv_new();
    QsTerms agreed;

    qs_hello_offer(offer, &ours);
    qs_kv_set_u64(offer, "wire.lanes", (G_GUINT64_CONSTANT(1) << 32) + 0);
    qs_kv_set_u64(offer, "wire.payload-max", G_MAXUINT64);
    qs_kv_set_u64(offer, "wire.ring-bytes", G_MAXUINT64);
    qs_kv_set_u64(offer, "wire.version-max", 9);
    g_assert_true(qs_hello_agree(offer, &theirs, reply, &agreed, NULL));
    g_assert_cmpuint(agreed.lanes, ==, theirs.lanes);
    g_assert_cmpuint(agreed.payload_max, ==, theirs.payload_max);
    g_assert_cmpuint(agreed.ring_bytes, ==, theirs.ring_bytes);
}

static void assert_no_agreement(const char *key, guint64 value)
{
    g_autoptr(QsKv) offer = qs_kv_new();
    g_autoptr(QsKv) reply = qs_kv_new();
    g_autoptr(GError) error = NULL;
    QsTerms agreed = { .lanes = 99 };

    qs_hello_offer(offer, &ours);
    qs_kv_set_u64(offer, key, value);
    g_assert_false(qs_hello_agree(offer, &theirs, reply, &agreed, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_TERMS);
    g_assert_cmpuint(agreed.lanes, ==, 99);
    g_assert_cmpuint(qs_kv_n_entries(reply), ==, 0);
}

static void test_no_agreement(void)
{
    g_autoptr(QsKv) empty = qs_kv_new();
    g_autoptr(QsKv) typed = qs_kv_new();
    g_autoptr(GError) error = NULL;
    QsTerms agreed;

    assert_no_agreement("wire.lanes", 0);
    assert_no_agreement("wire.payload-max", QS_CONTROL_MAX - 1);
    assert_no_agreement("wire.ring-bytes", 1023u << 10);
    assert_no_agreement("wire.version-min", 2);
    assert_no_agreement("wire.version-max", 0);
    g_assert_false(qs_hello_agree(empty, &theirs, empty, &agreed, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_KEY);
    qs_hello_offer(typed, &ours);
    qs_kv_set_string(typed, "wire.lanes", "4");
    g_assert_false(qs_hello_agree(typed, &theirs, empty, &agreed, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_KEY);
}

static void assert_not_confirmed(const char *key, guint64 value)
{
    g_autoptr(QsKv) offer = qs_kv_new();
    g_autoptr(QsKv) reply = qs_kv_new();
    g_autoptr(GError) error = NULL;
    QsTerms agreed;

    qs_hello_offer(offer, &ours);
    g_assert_true(qs_hello_agree(offer, &theirs, reply, &agreed, NULL));
    qs_kv_set_u64(reply, key, value);
    g_assert_false(qs_hello_confirm(reply, &ours, &agreed, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_TERMS);
}

static void test_not_confirmed(void)
{
    g_autoptr(QsKv) empty = qs_kv_new();
    g_autoptr(GError) error = NULL;
    QsTerms agreed;

    assert_not_confirmed("wire.version", 2);
    assert_not_confirmed("wire.lanes", 5);
    assert_not_confirmed("wire.lanes", 0);
    assert_not_confirmed("wire.payload-max", (1u << 20) + 1);
    assert_not_confirmed("wire.ring-bytes", (64u << 20) + 1);
    g_assert_false(qs_hello_confirm(empty, &ours, &agreed, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_KEY);
}

static void test_terms(void)
{
    static const QsTerms bad[] = {
        { 0, 1u << 20, 64u << 20 },           { QS_LANES_MAX + 1, 1u << 20, 64u << 20 },
        { 1, QS_CONTROL_MAX - 1, 64u << 20 }, { 1, QS_PAYLOAD_MAX + 1, 128u << 20 },
        { 1, 1u << 20, (4u << 20) - 1 },      { 1, 1u << 20, QS_RING_MAX + 1 },
    };
    static const QsTerms good[] = {
        { 1, QS_CONTROL_MAX, 4 * QS_CONTROL_MAX },
        { QS_LANES_MAX, QS_PAYLOAD_MAX, QS_RING_MAX },
    };

    for (gsize i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(qs_terms_check(&bad[i], &error));
        t_assert_fault(&error, QS_WIRE_ERROR_TERMS);
    }
    for (gsize i = 0; i < G_N_ELEMENTS(good); i++) {
        g_assert_true(qs_terms_check(&good[i], NULL));
    }
}

static void test_refuse(void)
{
    g_autoptr(QsKv) kv = qs_refuse_new("no machine pc-i440fx", "the VM runs at the source",
                                       "install quasar-x86 here");
    g_autoptr(QsKv) silent = qs_kv_new();
    g_autoptr(GError) error = NULL;

    g_assert_false(qs_refuse_report(kv, &error));
    g_assert_cmpstr(error->message, ==,
                    "the other end refused: no machine pc-i440fx; state: the VM runs at the "
                    "source; hint: install quasar-x86 here");
    t_assert_fault(&error, QS_WIRE_ERROR_REFUSED);
    g_assert_false(qs_refuse_report(silent, &error));
    g_assert_nonnull(strstr(error->message, "no reason"));
    t_assert_fault(&error, QS_WIRE_ERROR_REFUSED);
}

/* The words survive the wire, and those that cannot travel are noticed here. */
static void test_refuse_words(void)
{
    g_autoptr(QsKv) kv = qs_refuse_new("50 % \"quoted\" %s", "", "");
    g_autoptr(QsKv) bad = qs_refuse_new("\x1b]0;title\x07", "", "");
    g_autoptr(GBytes) payload = qs_kv_encode(kv, NULL);
    g_autoptr(QsKv) back = qs_kv_decode(payload, NULL);
    g_autoptr(GError) error = NULL;

    g_assert_cmpstr(qs_kv_get_string(back, "refuse.what", NULL), ==, "50 % \"quoted\" %s");
    g_assert_false(qs_refuse_report(back, &error));
    g_assert_nonnull(strstr(error->message, "50 % \"quoted\" %s"));
    g_clear_error(&error);
    g_assert_null(qs_kv_encode(bad, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_KV);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/hello/agree", test_agree);
    g_test_add_func("/wire/hello/generous-offer", test_generous_offer);
    g_test_add_func("/wire/hello/no-agreement", test_no_agreement);
    g_test_add_func("/wire/hello/not-confirmed", test_not_confirmed);
    g_test_add_func("/wire/hello/terms", test_terms);
    g_test_add_func("/wire/hello/refuse", test_refuse);
    g_test_add_func("/wire/hello/refuse-words", test_refuse_words);
    return g_test_run();
}
