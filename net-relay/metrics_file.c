/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "metrics_file.h"

#include "log.h"
#include "report.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib/gstdio.h>

/* For every user: the collector has one of its own. */
#define MODE 0644

struct QsMetricsFile {
    QsRelay *relay;
    QsAttach *attach;
    const char *path;
    char *fresh; /* the collector reads *.prom alone, so it never sees this one */
    guint timer;
    bool failed; /* and it was logged why */
};

static bool set_errno(GError **error, const char *what, const char *path)
{
    int saved = errno;

    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(saved), "cannot %s %s: %s", what, path,
                g_strerror(saved));
    return false;
}

/* Nothing is synced: after a crash the next one is written soon enough, and frames wait meanwhile.
 */
static bool write_now(QsMetricsFile *file, GError **error)
{
    g_autofree char *text = qs_report_metrics(file->relay, file->attach);

    if (!g_file_set_contents_full(file->fresh, text, -1, G_FILE_SET_CONTENTS_NONE, MODE, error)) {
        return false;
    }
    if (g_chmod(file->fresh, MODE) < 0) {
        return set_errno(error, "let others read", file->fresh);
    }
    return g_rename(file->fresh, file->path) == 0 || set_errno(error, "replace", file->path);
}

static gboolean write_again(gpointer data)
{
    QsMetricsFile *file = data;
    g_autoptr(GError) error = NULL;
    bool failed = !write_now(file, &error);

    if (failed && !file->failed) {
        qs_log(QS_LOG_ERROR, "metrics-file-failed", "text=\"%s\"", error->message);
    }
    file->failed = failed;
    return G_SOURCE_CONTINUE;
}

QsMetricsFile *qs_metrics_file_new(QsRelay *relay, QsAttach *attach, GError **error)
{
    const QsConfig *config = qs_relay_config(relay);
    QsMetricsFile *file = g_new0(QsMetricsFile, 1);

    file->relay = relay;
    file->attach = attach;
    file->path = config->metrics_file;
    file->fresh = g_strconcat(file->path, ".new", NULL);
    if (!write_now(file, error)) {
        qs_metrics_file_free(file);
        return NULL;
    }
    file->timer = g_timeout_add_seconds(config->metrics_seconds, write_again, file);
    return file;
}

void qs_metrics_file_free(QsMetricsFile *file)
{
    if (file == NULL) {
        return;
    }
    if (file->timer != 0) {
        g_source_remove(file->timer);
        g_unlink(file->path);
    }
    g_unlink(file->fresh);
    g_free(file->fresh);
    g_free(file);
}
