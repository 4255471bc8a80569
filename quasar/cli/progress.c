/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SCHEMA 1
#define BAR_WIDTH 24u
#define PLAIN_US (5 * G_USEC_PER_SEC)

typedef enum Mode { MODE_BAR, MODE_PLAIN, MODE_JSON, MODE_NONE } Mode;

struct QsProgress {
    const char *vm;
    Mode mode;
    const char *stage; /* of the last line */
    gint64 told;
    bool open; /* a bar's line */
};

QsProgress *qs_progress_new(const QsCli *cli, const char *vm, const char *mode, GError **error)
{
    static const char *const words[] = { "bar", "plain", "json", "none" };
    QsProgress *progress = g_new0(QsProgress, 1);

    progress->vm = vm;
    if (mode == NULL || g_str_equal(mode, "auto")) {
        progress->mode = cli->quiet                      ? MODE_NONE
                         : cli->format == QS_FORMAT_JSON ? MODE_JSON
                         : isatty(STDERR_FILENO)         ? MODE_BAR
                                                         : MODE_PLAIN;
        return progress;
    }
    for (guint i = 0; i < G_N_ELEMENTS(words); i++) {
        if (g_str_equal(mode, words[i])) {
            progress->mode = (Mode)i;
            return progress;
        }
    }
    g_free(progress);
    qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL,
            "--progress takes auto, bar, plain, json or none");
    return NULL;
}

void qs_progress_leave(QsProgress *progress)
{
    if (progress->open) {
        g_printerr("\n");
        progress->open = false;
    }
}

void qs_progress_free(QsProgress *progress)
{
    if (progress != NULL) {
        qs_progress_leave(progress);
    }
    g_free(progress);
}

static guint percent_of(const QsMoveInfo *info)
{
    guint64 remaining = MIN(info->remaining, info->total);

    return g_str_equal(info->stage, "done") ? 100
           : info->total == 0               ? 0
                              : (guint)((info->total - remaining) * 100 / info->total);
}

static void show_json(const QsProgress *progress, const QsMoveInfo *info)
{
    g_autoptr(JsonObject) line = json_object_new();
    g_autofree char *text = NULL;

    json_object_set_int_member(line, "schema", SCHEMA);
    json_object_set_string_member(line, "vm", progress->vm);
    json_object_set_string_member(line, "phase", info->stage);
    json_object_set_int_member(line, "percent", percent_of(info));
    json_object_set_int_member(line, "bytes", (gint64)info->sent);
    json_object_set_int_member(line, "remaining", (gint64)info->remaining);
    json_object_set_int_member(line, "rate", (gint64)info->rate);
    json_object_set_int_member(line, "dirty_rate", (gint64)info->dirty_rate);
    json_object_set_int_member(line, "downtime_ms", (gint64)info->downtime_ms);
    if (info->rate > 0) {
        json_object_set_int_member(line, "eta", (gint64)(info->remaining / info->rate));
    } else {
        json_object_set_null_member(line, "eta");
    }
    text = qs_json_text(line, false);
    g_print("%s\n", text);
    fflush(stdout);
}

static char *describe(const QsMoveInfo *info)
{
    g_autofree char *sent = g_format_size(info->sent);
    g_autofree char *rate = g_format_size(info->rate);

    return g_strdup_printf("%s  %3u%%  %s sent  %s/s", info->stage, percent_of(info), sent, rate);
}

static void show_bar(QsProgress *progress, const QsMoveInfo *info)
{
    g_autofree char *text = describe(info);
    char bar[BAR_WIDTH + 1];
    guint full = percent_of(info) * BAR_WIDTH / 100;

    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', full);
    bar[BAR_WIDTH] = '\0';
    g_printerr("\r%s [%s] %s\033[K", progress->vm, bar, text);
    progress->open = true;
}

void qs_progress_show(const QsMoveInfo *info, void *opaque)
{
    QsProgress *progress = opaque;
    gint64 now = g_get_monotonic_time();
    bool due = progress->stage != info->stage || now - progress->told > PLAIN_US;

    if (progress->mode == MODE_JSON) {
        show_json(progress, info);
    } else if (progress->mode == MODE_BAR) {
        show_bar(progress, info);
    } else if (progress->mode == MODE_PLAIN && due) {
        g_autofree char *text = describe(info);

        g_printerr("%s: %s\n", progress->vm, text);
    }
    if (due) {
        progress->told = now;
        progress->stage = info->stage;
    }
}
