/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What two launchers say: offers and back, refusals, versions; and the images that are made. */
#include "move/examine.h"
#include "move/image.h"
#include "move/talk.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void make_pair(QsLines **ret_a, QsLines **ret_b)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    *ret_a = qs_lines_new(fds[0], fds[0], QS_TALK_LINE_MAX, "a");
    *ret_b = qs_lines_new(fds[1], fds[1], QS_TALK_LINE_MAX, "b");
}

static void test_offer(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QsOffer) offer = qs_offer_new("web", qs_def_new());
    g_autoptr(QsOffer) got = NULL;
    g_autoptr(JsonObject) message = NULL;
    QsDef *def = offer->def;

    qs_def_set(def, "image", "/a;/b", NULL);
    qs_def_set(def, "image-format", "raw;qcow2", NULL);
    qs_def_set(def, "kernel", "/k", NULL);
    g_assert_true(qs_def_complete(def, "web", NULL));
    offer->n_disks = 2;
    offer->disks[0] = (QsTalkDisk){ 512, 0 };
    offer->disks[1] = (QsTalkDisk){ QS_IMAGE_SIZE_MAX, 77 };
    offer->files[offer->n_files++] = (QsTalkFile){ "kernel", 5 };
    offer->secret = true;
    message = qs_offer_pack(offer);
    got = qs_offer_unpack(message, &error);
    g_assert_no_error(error);
    g_assert_true(qs_def_equal(got->def, def));
    g_assert_cmpuint(got->disks[1].size, ==, QS_IMAGE_SIZE_MAX);
    g_assert_cmpuint(got->disks[1].allocated, ==, 77);
    g_assert_cmpuint(got->files[0].size, ==, 5);
    g_assert_true(got->secret);
    offer->disks[0].size = QS_IMAGE_SIZE_MAX + 1;
    g_clear_pointer(&message, json_object_unref);
    message = qs_offer_pack(offer);
    g_assert_null(qs_offer_unpack(message, &error));
    g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_REFUSED);
}

static void test_refusal(void)
{
    g_autoptr(GError) why = NULL;
    g_autoptr(GError) error = NULL;
    g_autoptr(QsLines) a = NULL;
    g_autoptr(QsLines) b = NULL;

    make_pair(&a, &b);
    qs_fail(&why, QS_VM_ERROR_UNCERTAIN, "there", "ask", "no\nwonder \033[31m");
    g_assert_true(qs_talk_refuse(a, why));
    g_assert_null(qs_talk_expect(b, "accept", QS_TALK_ANSWER_MS, NULL, &error));
    /* A peer cannot make it uncertain where the VM is. */
    g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_REFUSED);
    g_assert_cmpstr(error->message, ==,
                    "the other host says: no wonder  [31m; state: it is here as it was; hint: ask");
}

static void test_hello(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QsLines) a = NULL;
    g_autoptr(QsLines) b = NULL;
    g_autofree char *version = NULL;
    JsonObject *other = qs_talk_message("hello");

    make_pair(&a, &b);
    g_assert_true(qs_talk_send_hello(a, "1.2", NULL, NULL));
    version = qs_talk_expect_hello(b, "1.3", NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(version, ==, "1.2");
    json_object_set_int_member(other, "protocol", QS_TALK_PROTOCOL + 1);
    json_object_set_string_member(other, "version", "9");
    g_assert_true(qs_talk_send(a, other, NULL, NULL));
    g_assert_null(qs_talk_expect_hello(b, "1.3", NULL, &error));
    g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_REFUSED);
}

static void test_host(void)
{
    QsHost host = { .arch = "ppc64",
                    .big_endian = true,
                    .sandbox = true,
                    .page_size = 65536,
                    .processors = 8,
                    .memory = 1024,
                    .memory_free = 512,
                    .space = 1 << 30,
                    .clock_ms = G_GUINT64_CONSTANT(1800000000000) };
    static const char *const names[] = { "arch", "page-size", "clock", "big-endian", "guests" };
    QsHost got;

    g_strlcpy(host.guests[0].version, "QEMU emulator version 10.0.13 (Quasar 10.0.13+40)", 128);
    host.guests[3].firmware = true;
    for (guint i = 0; i <= G_N_ELEMENTS(names); i++) {
        g_autoptr(JsonObject) message = qs_host_pack(&host);

        if (i < G_N_ELEMENTS(names)) {
            json_object_remove_member(message, names[i]);
            g_assert_false(qs_host_unpack(message, &got));
            json_object_set_int_member(message, names[i], -1);
            g_assert_false(qs_host_unpack(message, &got));
            continue;
        }
        g_assert_true(qs_host_unpack(message, &got));
        g_assert_cmpstr(got.arch, ==, "ppc64");
        g_assert_true(got.big_endian && !got.clock_synced && got.sandbox);
        g_assert_cmpuint(got.page_size, ==, 65536);
        g_assert_cmpuint(got.clock_ms, ==, host.clock_ms);
        g_assert_true(qs_host_guest_is_ours(&got.guests[0]));
        g_assert_true(got.guests[3].firmware && !got.guests[2].firmware);
        json_object_set_string_member(message, "arch", "a name longer than any architecture has");
        g_assert_false(qs_host_unpack(message, &got));
    }
}

typedef struct Examined {
    QsLines *lines;
    JsonObject *after;
    bool done;
} Examined;

static gpointer be_examined(gpointer data)
{
    g_autoptr(QsStore) store = qs_store_new("/nonexistent");
    Examined *e = data;
    JsonObject *message = qs_talk_receive(e->lines, QS_TALK_ANSWER_MS, NULL, NULL);

    e->done = message != NULL && qs_examined(store, e->lines, NULL, &message, NULL);
    e->after = message;
    return NULL;
}

/* Both ends of an examination; what comes behind it is left to who asked for that. */
static void test_examine(void)
{
    static const char *const last[] = { "offer", "enough" };

    for (guint i = 0; i < G_N_ELEMENTS(last); i++) {
        g_autoptr(GError) error = NULL;
        Examined e = { 0 };
        QsLines *here;
        GThread *thread;
        QsHost host;
        QsLink link;

        make_pair(&here, &e.lines);
        thread = g_thread_new("examined", be_examined, &e);
        g_assert_true(qs_examine(here, NULL, &host, &link, &error));
        g_assert_no_error(error);
        g_assert_true(qs_talk_send(here, qs_talk_message(last[i]), NULL, NULL));
        g_thread_join(thread);
        g_assert_true(e.done);
        g_assert_true((e.after != NULL) == (i == 0));
        g_assert_cmpuint(host.page_size, ==, (guint64)sysconf(_SC_PAGESIZE));
        g_assert_cmpuint(link.rate, >, 0);
        g_assert_cmpint(ABS(link.ahead_ms), <, 60000);
        g_clear_pointer(&e.after, json_object_unref);
        qs_lines_free(here);
        qs_lines_free(e.lines);
    }
}

/* Whoever asks without end is not answered without end. */
static void test_examine_for_ever(void)
{
    QsLines *here, *there;
    GThread *thread;
    Examined e = { 0 };
    guint answers = 0;

    make_pair(&here, &there);
    e.lines = there;
    thread = g_thread_new("examined", be_examined, &e);
    while (answers < 5000) {
        g_autoptr(JsonObject) answer = NULL;

        if (!qs_talk_send(here, qs_talk_message("ping"), NULL, NULL) ||
            (answer = qs_talk_receive(here, 500, NULL, NULL)) == NULL) {
            break;
        }
        answers++;
    }
    g_thread_join(thread);
    g_assert_false(e.done);
    g_assert_cmpuint(answers, <, 5000);
    g_clear_pointer(&e.after, json_object_unref);
    qs_lines_free(here);
    qs_lines_free(there);
}

static void test_images(void)
{
    static const char *const formats[] = { "raw", "qcow2" };
    static const guint64 sizes[] = { 512, 64 << 20, G_GUINT64_CONSTANT(5) << 40 };
    g_autofree char *folder = g_dir_make_tmp("move-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(folder, "image", NULL);

    for (guint i = 0; i < G_N_ELEMENTS(formats) * G_N_ELEMENTS(sizes); i++) {
        const char *format = formats[i % 2];
        g_autoptr(GError) error = NULL;
        guint64 size = 0, allocated = 0;

        g_assert_true(qs_image_create(path, format, sizes[i / 2], &error));
        g_assert_no_error(error);
        g_assert_cmpstr(qs_def_image_format(path, NULL), ==, format);
        g_assert_true(qs_image_measure(path, format, &size, &allocated, NULL));
        g_assert_cmpuint(size, ==, sizes[i / 2]);
        g_assert_cmpuint(allocated, <, 1 << 20);
        g_assert_false(qs_image_create(path, format, sizes[i / 2], &error));
        g_unlink(path);
    }
    g_assert_false(qs_image_create(path, "raw", 511, NULL));
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
    g_rmdir(folder);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/move/offer", test_offer);
    g_test_add_func("/move/refusal", test_refusal);
    g_test_add_func("/move/hello", test_hello);
    g_test_add_func("/move/host", test_host);
    g_test_add_func("/move/examine", test_examine);
    g_test_add_func("/move/examine-for-ever", test_examine_for_ever);
    g_test_add_func("/move/images", test_images);
    return g_test_run();
}
