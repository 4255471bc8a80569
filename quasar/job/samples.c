/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "job/samples.h"

#include "qmp/json.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP_MS 250
/* Of a line; ours have some 150 bytes. */
#define LINE_MAX_BYTES 512u
#define FILE_MAX (2u * QS_SAMPLES_MAX * LINE_MAX_BYTES)

struct QsSamples {
    char *path;
    GArray *all;
    gint64 began, step; /* milliseconds */
};

static bool is_last(const char *stage)
{
    return g_str_equal(stage, "done") || g_str_equal(stage, "failed");
}

static char *write_line(const QsSample *s)
{
    return g_strdup_printf(
        "{\"ms\":%" G_GINT64_FORMAT ",\"stage\":\"%s\",\"sent\":%" G_GUINT64_FORMAT
        ",\"total\":%" G_GUINT64_FORMAT ",\"remaining\":%" G_GUINT64_FORMAT
        ",\"rate\":%" G_GUINT64_FORMAT ",\"dirty_rate\":%" G_GUINT64_FORMAT
        ",\"downtime_ms\":%" G_GUINT64_FORMAT "}\n",
        s->ms, s->stage, s->sent, s->total, s->remaining, s->rate, s->dirty_rate, s->downtime_ms);
}

static bool read_line(const char *line, gsize size, QsSample *ret_sample)
{
    g_autoptr(JsonObject) object =
        size > LINE_MAX_BYTES ? NULL : qs_json_parse_object(line, size, NULL);
    guint64 ms;
    QsSample s = { 0 };

    if (object == NULL || !qs_json_get_u64(object, "ms", &ms, NULL) ||
        !qs_json_get_u64(object, "sent", &s.sent, NULL) ||
        !qs_json_get_u64(object, "total", &s.total, NULL) ||
        !qs_json_get_u64(object, "remaining", &s.remaining, NULL) ||
        !qs_json_get_u64(object, "rate", &s.rate, NULL) ||
        !qs_json_get_u64(object, "dirty_rate", &s.dirty_rate, NULL) ||
        !qs_json_get_u64(object, "downtime_ms", &s.downtime_ms, NULL)) {
        return false;
    }
    s.ms = (gint64)ms;
    s.stage = qs_job_phase_word(qs_json_get_string(object, "stage", NULL));
    *ret_sample = s;
    return s.stage != NULL;
}

GArray *qs_samples_parse(const char *text, gsize size)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(QsSample));
    const char *end = text + size;

    while (text < end && all->len < 2 * QS_SAMPLES_MAX) {
        const char *newline = memchr(text, '\n', (gsize)(end - text));
        const char *stop = newline != NULL ? newline : end;
        QsSample sample;

        /* Time goes on: a chart is drawn from left to right. */
        if (read_line(text, (gsize)(stop - text), &sample) &&
            (all->len == 0 || g_array_index(all, QsSample, all->len - 1).ms <= sample.ms)) {
            g_array_append_val(all, sample);
        }
        text = stop + 1;
    }
    return all;
}

static GArray *load_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    g_autofree char *text = NULL;
    gsize size = 0;
    ssize_t n;

    if (fd < 0) {
        return qs_samples_parse("", 0);
    }
    text = g_malloc(FILE_MAX);
    while (size < FILE_MAX && (n = read(fd, text + size, FILE_MAX - size)) > 0) {
        size += (gsize)n;
    }
    close(fd);
    return qs_samples_parse(text, size);
}

GArray *qs_samples_load(const QsJob *job)
{
    g_autofree char *path = qs_job_file(job, QS_SAMPLES_SUFFIX);

    return load_file(path);
}

QsSamples *qs_samples_new(const QsJob *job)
{
    QsSamples *samples = g_new0(QsSamples, 1);

    samples->path = qs_job_file(job, QS_SAMPLES_SUFFIX);
    samples->all = load_file(samples->path);
    samples->began = job->began / 1000;
    samples->step = STEP_MS;
    return samples;
}

void qs_samples_free(QsSamples *samples)
{
    if (samples != NULL) {
        g_free(samples->path);
        g_array_unref(samples->all);
        g_free(samples);
    }
}

static void append(const QsSamples *samples, const QsSample *sample)
{
    g_autofree char *line = write_line(sample);
    int fd = open(samples->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat info;
    char last = '\n';

    if (fd < 0) {
        return;
    }
    /* Behind a line that another launcher did not finish. */
    if (fstat(fd, &info) == 0 && info.st_size > 0) {
        int look = open(samples->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

        if (look >= 0) {
            last = pread(look, &last, 1, info.st_size - 1) == 1 ? last : '\n';
            close(look);
        }
    }
    if ((last == '\n' || write(fd, "\n", 1) == 1) &&
        write(fd, line, strlen(line)) != (ssize_t)strlen(line)) {
        /* A full disk: the work goes on without. */
        close(fd);
        return;
    }
    close(fd);
}

static void thin(QsSamples *samples)
{
    g_autoptr(GString) text = g_string_new(NULL);
    guint kept = 0;

    for (guint i = 0; i < samples->all->len; i++) {
        QsSample sample = g_array_index(samples->all, QsSample, i);
        bool first = i == 0 || g_array_index(samples->all, QsSample, i - 1).stage != sample.stage;

        if (i % 2 == 0 || (first && kept < QS_SAMPLES_MAX / 2)) {
            g_autofree char *line = write_line(&sample);

            g_string_append(text, line);
            g_array_index(samples->all, QsSample, kept++) = sample;
        }
    }
    g_array_set_size(samples->all, kept);
    samples->step *= 2;
    g_file_set_contents_full(samples->path, text->str, (gssize)text->len,
                             G_FILE_SET_CONTENTS_CONSISTENT, 0600, NULL);
}

void qs_samples_add(QsJob *job, const QsSample *sample)
{
    QsSamples *samples = job == NULL ? NULL : job->samples;
    QsSample now = *sample;
    const QsSample *last;

    if (samples == NULL) {
        return;
    }
    now.ms = MAX(g_get_real_time() / 1000 - samples->began, 0);
    last = samples->all->len == 0 ? NULL
                                  : &g_array_index(samples->all, QsSample, samples->all->len - 1);
    if (last != NULL && last->stage == now.stage &&
        (is_last(now.stage) || now.ms - last->ms < samples->step)) {
        return;
    }
    /* The clock may have been set back. */
    now.ms = last != NULL ? MAX(now.ms, last->ms) : now.ms;
    g_array_append_val(samples->all, now);
    append(samples, &now);
    if (samples->all->len >= QS_SAMPLES_MAX) {
        thin(samples);
    }
}
