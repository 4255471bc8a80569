/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What two launchers say: offers and back, refusals, versions; and the images that are made. */
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
    g_test_add_func("/move/images", test_images);
    return g_test_run();
}
