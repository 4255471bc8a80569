/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a stranger's VM file may hold: the index, sealed as the launcher would seal it, and, as text
 * by itself, a definition. What is taken can be said again and means the same.
 */
#include "../wire/fuzz.h"
#include "vm/archive.h"
#include "vm/args.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HEADER 48
#define FILE_SIZE (QS_ARCHIVE_START + 4 * 65536)

/* In front of the sections or, where a machine comes first, @behind them. */
static void try_index(const uint8_t *data, size_t size, bool behind)
{
    const guint64 least = behind ? 65536 : QS_ARCHIVE_START;
    const off_t at = behind ? FILE_SIZE - HEADER : 0;
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autoptr(QsArchive) archive = NULL;
    g_autoptr(GError) error = NULL;
    guint8 header[HEADER] = "QSVMFILE";
    gsize length = 32;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);

    header[8] = behind ? 2 : 1;
    header[12] = (guint8)size;
    header[13] = (guint8)(size >> 8);
    header[14] = (guint8)(size >> 16);
    g_checksum_update(sum, data, (gssize)size);
    g_checksum_get_digest(sum, header + 16, &length);
    g_assert_cmpint(ftruncate(fd, FILE_SIZE), ==, 0);
    g_assert_cmpint(pwrite(fd, header, HEADER, at), ==, HEADER);
    g_assert_cmpint(pwrite(fd, data, size, behind ? at - (off_t)size : HEADER), ==, (ssize_t)size);
    archive = qs_archive_read(fd, &error);
    g_assert_true((archive == NULL) == (error != NULL));
    g_assert_true(error == NULL || g_utf8_validate(error->message, -1, NULL));
    g_assert_true(archive == NULL || (archive->machine != 0) == behind);
    g_assert_true(archive == NULL || archive->n_images <= QS_DEF_IMAGES_MAX);
    g_assert_true(archive == NULL || archive->machine <= FILE_SIZE - HEADER - size);
    for (guint i = 0; archive != NULL && i < archive->n_sections; i++) {
        const QsSection *section = &archive->sections[i];

        g_assert_cmpuint(section->offset, >=, least);
        g_assert_cmpuint(section->offset + section->size, <=, FILE_SIZE);
        qs_archive_verify(section, fd, NULL, NULL);
    }
    close(fd);
}

static void try_definition(const char *text)
{
    static const QsArgsSockets sockets = { 3, 4, 5, "/s" };
    g_autoptr(QsDef) def = qs_def_parse(text, NULL);
    g_autoptr(QsDef) back = NULL;
    g_autofree char *again = NULL;

    if (def == NULL) {
        return;
    }
    again = qs_def_text(def);
    back = qs_def_parse(again, NULL);
    g_assert_nonnull(back);
    g_assert_true(qs_def_equal(def, back));
    if (qs_def_check(def, NULL)) {
        g_auto(GStrv) argv = qs_args_build(def, "x", "/q", &sockets, true, false);

        g_assert_cmpstr(argv[0], ==, "/q");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = NULL;

    if (size > 65536) {
        return -1;
    }
    try_index(data, size, false);
    try_index(data, size, true);
    text = g_strndup((const char *)data, size);
    try_definition(text);
    return 0;
}
