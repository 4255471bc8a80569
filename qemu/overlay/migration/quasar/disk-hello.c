/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks in the hello.  HELLO has the key "disks", a line each:
 *
 *   size TAB backing size TAB host device (0, 1) TAB format TAB backing TAB id
 *
 * HELLO_REPLY has "disks.by-reference", the ids whose backing file the
 * destination has as well.
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qapi/error.h"
#include "disk-hello.h"

#define FIELDS 6

static GPtrArray *mine;       /* destination: QuasarDisk */

static bool printable(const char *text)
{
    return !text || !strpbrk(text, "\t\n");
}

bool quasar_disk_offer(QsKv *hello, Error **errp)
{
    g_autoptr(GPtrArray) disks = quasar_disk_list(errp);
    g_autoptr(GString) text = g_string_new(NULL);

    if (!disks) {
        return false;
    }
    for (guint i = 0; i < disks->len; i++) {
        const QuasarDisk *disk = g_ptr_array_index(disks, i);

        if (!printable(disk->id) || !printable(disk->backing)) {
            error_setg(errp, "disk '%s' has a name that cannot be told",
                       disk->id);
            return false;
        }
        g_string_append_printf(
            text, "%" PRIu64 "\t%" PRIu64 "\t%d\t%s\t%s\t%s\n", disk->size,
            disk->backing_size, disk->host_device, disk->format ?: "",
            disk->backing ?: "", disk->id);
    }
    qs_kv_set_string(hello, "disks", text->str);
    return true;
}

strList *quasar_disk_read_reply(const QsKv *reply)
{
    const char *text = qs_kv_get_string(reply, "disks.by-reference", NULL);
    g_auto(GStrv) ids = g_strsplit(text ?: "", "\n", QUASAR_DISKS_MAX);
    strList *list = NULL;

    for (char **id = ids; *id; id++) {
        if (**id) {
            QAPI_LIST_PREPEND(list, g_strdup(*id));
        }
    }
    return list;
}

bool quasar_disk_survey(Error **errp)
{
    g_clear_pointer(&mine, g_ptr_array_unref);
    mine = quasar_disk_list(errp);
    return mine;
}

static bool judge_line(const char *line, GString *by_reference, Error **errp)
{
    g_auto(GStrv) fields = g_strsplit(line, "\t", FIELDS);
    bool reference = false;
    QuasarDisk disk;

    if (g_strv_length(fields) != FIELDS ||
        qemu_strtou64(fields[0], NULL, 10, &disk.size) < 0 ||
        qemu_strtou64(fields[1], NULL, 10, &disk.backing_size) < 0 ||
        strlen(fields[5]) > QUASAR_DISK_ID_MAX) {
        error_setg(errp, "the source's list of disks makes no sense");
        return false;
    }
    disk.host_device = g_str_equal(fields[2], "1");
    disk.format = fields[3];
    disk.backing = *fields[4] ? fields[4] : NULL;
    disk.id = fields[5];
    if (!quasar_disk_fits(mine, &disk, &reference, errp)) {
        return false;
    }
    if (reference) {
        g_string_append_printf(by_reference, "%s\n", disk.id);
    }
    return true;
}

bool quasar_disk_judge(const QsKv *offer, QsKv *reply, Error **errp)
{
    const char *text = qs_kv_get_string(offer, "disks", NULL);
    g_auto(GStrv) lines = g_strsplit(text ?: "", "\n", QUASAR_DISKS_MAX + 1);
    g_autoptr(GString) by_reference = g_string_new(NULL);

    for (char **line = lines; *line; line++) {
        if (**line && !judge_line(*line, by_reference, errp)) {
            return false;
        }
    }
    qs_kv_set_string(reply, "disks.by-reference", by_reference->str);
    return true;
}

QuasarDiskInfoList *quasar_disk_query(void)
{
    g_autoptr(GPtrArray) all = quasar_disk_stats();
    QuasarDiskInfoList *list = NULL, **tail = &list;

    for (guint i = 0; i < all->len; i++) {
        const QuasarDiskStats *stats = g_ptr_array_index(all, i);
        QuasarDiskInfo *info = g_new0(QuasarDiskInfo, 1);

        info->id = g_strdup(stats->id);
        info->size = stats->size;
        info->sent = stats->sent;
        info->zeroes = stats->zeroes;
        info->remaining = stats->remaining;
        info->throttled = stats->throttle;
        QAPI_LIST_APPEND(tail, info);
    }
    return list;
}
