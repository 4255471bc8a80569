/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "job/report.h"

#include <string.h>

#define SCHEMA 1

char *qs_report_time(gint64 at)
{
    g_autoptr(GDateTime) when =
        at <= 0 ? NULL : g_date_time_new_from_unix_local(at / G_USEC_PER_SEC);

    return when == NULL ? NULL : g_date_time_format(when, "%F %T");
}

static const QsSample *last_of(const GArray *samples)
{
    return samples->len == 0 ? NULL : &g_array_index(samples, QsSample, samples->len - 1);
}

static gint64 duration_ms(const QsJob *job)
{
    gint64 until = job->ended != 0     ? job->ended
                   : job->n_phases > 0 ? job->phases[job->n_phases - 1].at
                                       : job->began;

    return MAX(until - job->began, 0) / 1000;
}

/* --- JSON --- */

static void set_text(JsonObject *object, const char *name, const char *value)
{
    if (value != NULL) {
        json_object_set_string_member(object, name, value);
    } else {
        json_object_set_null_member(object, name);
    }
}

static void set_time(JsonObject *object, const char *name, gint64 at)
{
    if (at > 0) {
        json_object_set_double_member(object, name, (double)at / G_USEC_PER_SEC);
    } else {
        json_object_set_null_member(object, name);
    }
}

static JsonArray *pack_phases(const QsJob *job)
{
    JsonArray *list = json_array_new();

    for (guint i = 0; i < job->n_phases; i++) {
        JsonObject *one = json_object_new();

        json_object_set_string_member(one, "phase", job->phases[i].word);
        json_object_set_int_member(one, "ms", MAX(job->phases[i].at - job->began, 0) / 1000);
        json_array_add_object_element(list, one);
    }
    return list;
}

static JsonArray *pack_samples(const GArray *samples)
{
    JsonArray *list = json_array_new();

    for (guint i = 0; i < samples->len; i++) {
        const QsSample *s = &g_array_index(samples, QsSample, i);
        JsonObject *one = json_object_new();

        json_object_set_int_member(one, "ms", s->ms);
        json_object_set_string_member(one, "stage", s->stage);
        json_object_set_int_member(one, "sent", (gint64)s->sent);
        json_object_set_int_member(one, "total", (gint64)s->total);
        json_object_set_int_member(one, "remaining", (gint64)s->remaining);
        json_object_set_int_member(one, "rate", (gint64)s->rate);
        json_object_set_int_member(one, "dirty_rate", (gint64)s->dirty_rate);
        json_object_set_int_member(one, "downtime_ms", (gint64)s->downtime_ms);
        json_array_add_object_element(list, one);
    }
    return list;
}

JsonObject *qs_report_json(const QsJob *job, const GArray *samples)
{
    JsonObject *object = json_object_new();
    QsJobState state = qs_job_state(job);

    json_object_set_int_member(object, "schema", SCHEMA);
    json_object_set_string_member(object, "job", job->id);
    json_object_set_string_member(object, "verb", job->verb);
    json_object_set_string_member(object, "vm", job->vm);
    set_text(object, "uuid", job->uuid);
    set_text(object, "peer", job->peer);
    json_object_set_string_member(object, "phase", qs_job_phase(job));
    json_object_set_string_member(object, "state", qs_job_state_word(job));
    set_time(object, "began", job->began);
    set_time(object, "ended", job->ended);
    if (state == QS_JOB_RUNNING) {
        json_object_set_int_member(object, "pid", job->launcher.pid);
    }
    if (state == QS_JOB_ENDED) {
        json_object_set_int_member(object, "code", job->code);
        set_text(object, "words", job->words);
    }
    if (samples != NULL) {
        json_object_set_int_member(object, "duration_ms", duration_ms(job));
        json_object_set_array_member(object, "phases", pack_phases(job));
        json_object_set_array_member(object, "samples", pack_samples(samples));
    }
    return object;
}

/* --- text --- */

static void add_row(GString *text, const char *name, const char *value)
{
    if (value != NULL) {
        g_autofree char *line = qs_fail_line(value);

        g_string_append_printf(text, "%-12s %s\n", name, line);
    }
}

static void add_phases(GString *text, const QsJob *job)
{
    for (guint i = 0; i < job->n_phases; i++) {
        gint64 from = job->phases[i].at;
        gint64 until = i + 1 < job->n_phases ? job->phases[i + 1].at
                       : job->ended != 0     ? job->ended
                                             : from;

        g_string_append_printf(text, "  %-10s %8" G_GINT64_FORMAT " ms\n", job->phases[i].word,
                               MAX(until - from, 0) / 1000);
    }
}

static void add_figures(GString *text, const GArray *samples)
{
    const QsSample *last = last_of(samples);
    guint64 fastest = 0, dirtiest = 0;
    g_autofree char *sent = NULL;
    g_autofree char *rate = NULL;
    g_autofree char *dirty = NULL;
    g_autofree char *line = NULL;

    if (last == NULL) {
        return;
    }
    for (guint i = 0; i < samples->len; i++) {
        fastest = MAX(fastest, g_array_index(samples, QsSample, i).rate);
        dirtiest = MAX(dirtiest, g_array_index(samples, QsSample, i).dirty_rate);
    }
    sent = g_format_size(last->sent);
    rate = g_format_size(fastest);
    dirty = g_format_size(dirtiest);
    add_row(text, "sent", sent);
    line =
        g_strdup_printf("%s a second at most; memory changed by %s a second at most", rate, dirty);
    add_row(text, "rate", line);
    g_free(line);
    line = g_strdup_printf("%" G_GUINT64_FORMAT " ms", last->downtime_ms);
    add_row(text, "downtime", line);
    g_free(line);
    line = g_strdup_printf("%u", samples->len);
    add_row(text, "samples", line);
}

char *qs_report_text(const QsJob *job, const GArray *samples)
{
    GString *text = g_string_new(NULL);
    g_autofree char *began = qs_report_time(job->began);
    g_autofree char *ended = qs_report_time(job->ended);
    g_autofree char *took = g_strdup_printf("%" G_GINT64_FORMAT " ms", duration_ms(job));

    add_row(text, "job", job->id);
    add_row(text, "verb", job->verb);
    add_row(text, "vm", job->vm);
    add_row(text, "peer", job->peer);
    add_row(text, "state", qs_job_state_word(job));
    add_row(text, "began", began);
    add_row(text, "ended", ended);
    add_row(text, "took", took);
    add_row(text, "outcome", job->words);
    add_figures(text, samples);
    if (job->n_phases > 0) {
        g_string_append(text, "phases\n");
        add_phases(text, job);
    }
    return g_string_free(text, FALSE);
}
