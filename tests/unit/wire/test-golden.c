/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The golden files: written alike and read alike on every host. */
#include <string.h>

#include "samples.h"
#include "support.h"
#include "wire/session.h"

static GPtrArray *load(const char *file)
{
    g_autofree char *name = g_strconcat(file, ".hex", NULL);
    g_autofree char *path = g_test_build_filename(G_TEST_DIST, "golden", name, NULL);
    g_autofree char *text = NULL;
    g_autoptr(GError) error = NULL;

    g_file_get_contents(path, &text, NULL, &error);
    g_assert_no_error(error);
    return samples_parse(text);
}

/* This host writes what is in the file. */
static void test_written(gconstpointer data)
{
    g_autoptr(GPtrArray) golden = load(data);
    g_autoptr(GPtrArray) built = samples_build(data);

    g_assert_cmpuint(golden->len, ==, built->len);
    for (guint i = 0; i < built->len; i++) {
        const Sample *want = g_ptr_array_index(golden, i);
        const Sample *have = g_ptr_array_index(built, i);

        g_assert_cmpstr(want->name, ==, have->name);
        g_assert_cmpstr(want->expect, ==, have->expect);
        g_assert_cmpmem(have->bytes->data, have->bytes->len, want->bytes->data, want->bytes->len);
    }
}

/* What a reader of a stream does with one frame, besides the decoder. */
static bool judge(QsSession *session, const QsFrame *frame, GError **error)
{
    const QsFrameClass *class = qs_frame_class(frame->header.type);
    QsVerdict verdict = QS_VERDICT_CONTROL;

    if (class && class->shape == QS_SHAPE_KV) {
        g_autoptr(QsKv) kv = qs_kv_decode(frame->payload, error);
        g_autoptr(GBytes) again = NULL;

        if (!kv) {
            return false;
        }
        again = qs_kv_encode(kv, NULL);
        g_assert_true(g_bytes_equal(again, frame->payload));
    }
    return frame->header.sequence == 0 || qs_session_receive(session, frame, &verdict, error);
}

static bool read_all(const GByteArray *bytes, guint *ret_frames, GError **error)
{
    static const QsTerms terms = { 4, QS_PAYLOAD_MAX, QS_RING_MAX };
    g_autoptr(QsSession) session = qs_session_new(QS_ROLE_LISTENER, T_SESSION, &terms, NULL);
    g_autoptr(GPtrArray) frames = NULL;
    g_autoptr(GError) later = NULL;
    bool good = t_decode(bytes->data, bytes->len, NULL, &frames, &later);

    g_assert_true(qs_session_begin(session, NULL));
    for (*ret_frames = 0; *ret_frames < frames->len; (*ret_frames)++) {
        if (!judge(session, g_ptr_array_index(frames, *ret_frames), error)) {
            return false;
        }
    }
    if (!good) {
        g_propagate_error(error, g_steal_pointer(&later));
    }
    return good;
}

/* This host reads what the file's expectation says. */
static void test_read(gconstpointer data)
{
    g_autoptr(GPtrArray) golden = load(data);

    g_assert_cmpuint(golden->len, >, 2);
    for (guint i = 0; i < golden->len; i++) {
        const Sample *sample = g_ptr_array_index(golden, i);
        g_autoptr(GError) error = NULL;
        g_autofree char *got = NULL;
        g_autofree char *want = g_strdup_printf("%s: %s", sample->name, sample->expect);
        guint frames;
        bool good = read_all(sample->bytes, &frames, &error);

        g_assert_true(good || error->domain == QS_WIRE_ERROR);
        got = g_strdup_printf("%s: %s %u", sample->name, good ? "ok" : t_error_name(error->code),
                              frames);
        g_assert_cmpstr(got, ==, want);
    }
}

static void assert_payload(const GByteArray *bytes, guint index, const GString *want)
{
    g_autoptr(GPtrArray) frames = NULL;
    const QsFrame *frame;

    g_assert_true(t_decode(bytes->data, bytes->len, NULL, &frames, NULL));
    frame = g_ptr_array_index(frames, index);
    g_assert_cmpmem(g_bytes_get_data(frame->payload, NULL), g_bytes_get_size(frame->payload),
                    want->str, want->len);
}

/* What the compressed ones unpack to. */
static void test_unpacked(void)
{
    g_autoptr(GPtrArray) golden = load("compressed");
    const Sample *by_hand = g_ptr_array_index(golden, 0);
    const Sample *real = g_ptr_array_index(golden, 1);
    GString *want = g_string_new("abcd");

    for (guint i = 0; i < 60; i++) {
        g_string_append_c(want, 'z');
    }
    assert_payload(by_hand->bytes, 0, want);
    g_string_truncate(want, 0);
    for (guint i = 0; i < 300; i++) {
        g_string_append_c(want, 'y');
    }
    assert_payload(by_hand->bytes, 1, want);
    g_string_truncate(want, 0);
    for (guint i = 0; i < 20; i++) {
        g_string_append_printf(want, "line %02u of the text\n", i);
    }
    assert_payload(real->bytes, 0, want);
    g_string_free(want, true);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; sample_files[i]; i++) {
        g_autofree char *written = g_strconcat("/wire/golden/written/", sample_files[i], NULL);
        g_autofree char *read = g_strconcat("/wire/golden/read/", sample_files[i], NULL);

        g_test_add_data_func(written, sample_files[i], test_written);
        g_test_add_data_func(read, sample_files[i], test_read);
    }
    g_test_add_func("/wire/golden/unpacked", test_unpacked);
    return g_test_run();
}
