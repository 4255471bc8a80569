/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Records of jobs: whole or refused, whatever stands in the file; the history's and samples'
 * bounds. */
#include "job/chart.h"
#include "job/report.h"

#include <glib/gstdio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define UUID "3e9a5f0e-8d0b-4e7c-9a39-2d1f1e0b8c01"

typedef struct Fixture {
    char *root;
    QsStore *store;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    (void)data;
    f->root = g_dir_make_tmp("job-XXXXXX", NULL);
    f->store = qs_store_new(f->root);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    const char *folder = qs_store_jobs(f->store);
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *file;

    (void)data;
    while (dir != NULL && (file = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(folder, file, NULL);

        if (g_unlink(path) < 0) {
            g_rmdir(path);
        }
    }
    g_rmdir(folder);
    g_rmdir(f->root);
    g_free(f->root);
    qs_store_free(f->store);
}

static QsJob *begin(Fixture *f, const char *vm)
{
    g_autoptr(GError) error = NULL;
    QsJob *job = qs_job_begin(f->store, "migrate", vm, UUID, "power9", &error);

    g_assert_no_error(error);
    return job;
}

static char *slurp(const QsJob *job)
{
    char *text = NULL;

    g_assert_true(g_file_get_contents(job->path, &text, NULL, NULL));
    return text;
}

/* As a launcher that died leaves it. */
static void kill_launcher(QsJob *job)
{
    g_autofree char *text = slurp(job);
    g_autoptr(GKeyFile) file = g_key_file_new();

    g_assert_true(g_key_file_load_from_data(file, text, strlen(text), G_KEY_FILE_NONE, NULL));
    g_key_file_set_uint64(file, "process", "start", 1);
    g_assert_true(g_key_file_save_to_file(file, job->path, NULL));
}

static void test_round_trip(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) job = begin(f, "web");
    g_autoptr(QsJob) back = NULL;
    g_autofree char *rsh = NULL;

    (void)data;
    g_assert_cmpstr(job->id, ==, "web#1");
    qs_job_note(job, "rsh", "ssh -p 22 'a b'\n;#");
    qs_job_enter(job, "agree");
    qs_job_enter(job, "bulk");
    qs_job_enter(job, "bulk");
    qs_job_enter(job, "no such phase");
    back = qs_job_find(f->store, "web", NULL);
    g_assert_nonnull(back);
    g_assert_cmpstr(back->id, ==, "web#1");
    g_assert_cmpstr(back->peer, ==, "power9");
    g_assert_cmpstr(back->uuid, ==, UUID);
    g_assert_cmpuint(back->n_phases, ==, 2);
    g_assert_cmpstr(qs_job_phase(back), ==, "bulk");
    rsh = qs_job_noted(back, "rsh");
    g_assert_cmpstr(rsh, ==, "ssh -p 22 'a b'\n;#");
    g_assert_cmpint(qs_job_state(back), ==, QS_JOB_RUNNING);
    g_assert_cmpint(back->launcher.pid, ==, getpid());
}

static void test_ends(Fixture *f, gconstpointer data)
{
    static const struct {
        int code;
        const char *word;
    } ends[] = { { 0, "done" },
                 { QS_VM_ERROR_FAILED, "failed" },
                 { QS_VM_ERROR_RUNS_HERE, "failed" },
                 { QS_VM_ERROR_UNCERTAIN, "uncertain" },
                 { QS_VM_ERROR_CANCELLED, "cancelled" } };

    (void)data;
    for (guint i = 0; i < G_N_ELEMENTS(ends); i++) {
        g_autoptr(QsJob) job = begin(f, "web");
        g_autoptr(QsJob) back = NULL;
        g_autoptr(GError) why = NULL;

        if (ends[i].code != 0) {
            g_set_error(&why, QS_VM_ERROR, ends[i].code, "so\nand \033[31mso");
        }
        qs_job_end(job, why, "well");
        back = qs_job_again(job, NULL);
        g_assert_cmpint(qs_job_state(back), ==, QS_JOB_ENDED);
        g_assert_cmpstr(qs_job_state_word(back), ==, ends[i].word);
        g_assert_cmpstr(back->words, ==, why == NULL ? "well" : "so and  [31mso");
        g_assert_cmpint(qs_job_pin(back), ==, -1);
    }
}

static void test_long_words(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) job = begin(f, "web");
    g_autoptr(GError) why = NULL;
    g_autoptr(QsJob) back = NULL;
    g_autoptr(GString) text = g_string_new("x");

    (void)data;
    while (text->len < 100000) {
        g_string_append(text, "\303\274");
    }
    g_set_error_literal(&why, QS_VM_ERROR, 1, text->str);
    qs_job_end(job, why, NULL);
    back = qs_job_again(job, NULL);
    g_assert_nonnull(back);
    g_assert_cmpuint(strlen(back->words), <=, 4096);
    g_assert_true(g_utf8_validate(back->words, -1, NULL));
}

/* Whatever a crash of the machine leaves of a record: it loads as what it was, or is refused. */
static void test_torn(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) job = begin(f, "web");
    g_autofree char *text = NULL;
    guint loaded = 0;

    (void)data;
    qs_job_enter(job, "agree");
    qs_job_note(job, "remove", "yes");
    text = slurp(job);
    for (gsize size = strlen(text); size-- > 0;) {
        g_autoptr(GError) error = NULL;
        g_autoptr(QsJob) back = NULL;

        g_assert_cmpint(truncate(job->path, (off_t)size), ==, 0);
        back = qs_job_load(job->path, 1, &error);
        g_assert_true((back == NULL) == (error != NULL));
        if (back != NULL) {
            loaded++;
            g_assert_cmpstr(back->vm, ==, "web");
            g_assert_cmpstr(back->verb, ==, "migrate");
        }
    }
    g_assert_cmpuint(loaded, <, strlen(text) / 2);
}

static void refuse(Fixture *f, const char *text, gssize size, const char *words)
{
    g_autofree char *path = g_build_filename(qs_store_jobs(f->store), "7.job", NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(GPtrArray) problems = NULL;
    g_autoptr(GPtrArray) jobs = NULL;

    g_mkdir_with_parents(qs_store_jobs(f->store), 0700);
    g_assert_true(g_file_set_contents(path, text, size, NULL));
    g_assert_null(qs_job_load(path, 7, &error));
    g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_FAILED);
    if (strstr(error->message, words) == NULL) {
        g_error("\"%s\" is not in: %s", words, error->message);
    }
    g_assert_null(qs_job_find(f->store, "web#7", NULL));
    jobs = qs_job_list(f->store, &problems);
    g_assert_cmpuint(jobs->len, ==, 0);
    g_assert_cmpuint(problems->len, ==, 1);
}

#define HEAD "[job]\nversion=1\nverb=migrate\nvm=web\nbegan=1\n"
#define PROCESS "[process]\npid=7\nstart=7\nboot=b\n"

static void test_foreign(Fixture *f, gconstpointer data)
{
    g_autoptr(GString) phases = g_string_new(HEAD PROCESS "[phases]\n");

    (void)data;
    refuse(f, "", 0, "version");
    refuse(f, "\0\1\2", 3, "no record");
    refuse(f, "\377\376", 2, "no text");
    refuse(f, "hello", -1, "no record");
    refuse(f, "[vm]\nguest=x86_64\n", -1, "version");
    refuse(f, "[job]\nversion=2\n", -1, "version");
    refuse(f, "[job]\nversion=1\nverb=rm\nvm=web\nbegan=1\n" PROCESS, -1, "verb or VM");
    refuse(f, "[job]\nversion=1\nverb=save\nvm=../web\nbegan=1\n" PROCESS, -1, "verb or VM");
    refuse(f, "[job]\nversion=1\nverb=save\nvm=web\n" PROCESS, -1, "times");
    refuse(f, "[job]\nversion=1\nverb=save\nvm=web\nbegan=-1\n" PROCESS, -1, "times");
    refuse(f, HEAD "code=-1\n" PROCESS, -1, "times");
    refuse(f, HEAD, -1, "no launcher");
    refuse(f, HEAD "[process]\npid=0\nstart=7\nboot=b\n", -1, "no launcher");
    refuse(f, HEAD "[process]\npid=-7\nstart=7\nboot=b\n", -1, "no launcher");
    refuse(f, HEAD PROCESS "[phases]\n00-dance=1\n", -1, "phases");
    refuse(f, HEAD PROCESS "[phases]\nbulk=1\n", -1, "phases");
    for (guint i = 0; i <= QS_JOB_PHASES_MAX; i++) {
        g_string_append_printf(phases, "%02u-bulk=1\n", i);
    }
    refuse(f, phases->str, -1, "phases");
}

static void test_huge(Fixture *f, gconstpointer data)
{
    g_autofree char *path = g_build_filename(qs_store_jobs(f->store), "7.job", NULL);
    g_autoptr(GString) text = g_string_new(HEAD PROCESS);
    g_autoptr(GError) error = NULL;

    (void)data;
    while (text->len < 70000) {
        g_string_append(text, "# nothing\n");
    }
    refuse(f, text->str, (gssize)text->len, "too long");
    /* A hole of a terabyte is not read. */
    g_assert_cmpint(truncate(path, G_GINT64_CONSTANT(1) << 40), ==, 0);
    g_assert_null(qs_job_load(path, 7, &error));
    g_assert_nonnull(strstr(error->message, "too long"));
    text->str[0] = '\0';
    g_string_truncate(text, 0);
    g_string_append(text, "[job]\nversion=1\nverb=save\nbegan=1\nvm=web\npeer=");
    while (text->len < 6000) {
        g_string_append(text, "x");
    }
    g_string_append(text, "\n" PROCESS);
    refuse(f, text->str, -1, "verb or VM");
}

/* Neither followed nor waited for. */
static void test_no_file(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) job = begin(f, "web");
    g_autofree char *link = g_build_filename(qs_store_jobs(f->store), "8.job", NULL);
    g_autofree char *pipe = g_build_filename(qs_store_jobs(f->store), "9.job", NULL);
    g_autofree char *folder = g_build_filename(qs_store_jobs(f->store), "10.job", NULL);
    g_autoptr(GPtrArray) problems = NULL;
    g_autoptr(GPtrArray) jobs = NULL;

    (void)data;
    g_assert_cmpint(symlink(job->path, link), ==, 0);
    g_assert_cmpint(mkfifo(pipe, 0600), ==, 0);
    g_assert_cmpint(g_mkdir(folder, 0700), ==, 0);
    jobs = qs_job_list(f->store, &problems);
    g_assert_cmpuint(jobs->len, ==, 1);
    g_assert_cmpuint(problems->len, ==, 3);
}

static void test_reused_pid(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) job = begin(f, "web");
    g_autoptr(QsJob) back = NULL;

    (void)data;
    kill_launcher(job);
    back = qs_job_again(job, NULL);
    g_assert_cmpint(back->launcher.pid, ==, getpid());
    g_assert_cmpint(qs_job_state(back), ==, QS_JOB_INTERRUPTED);
    g_assert_cmpstr(qs_job_state_word(back), ==, "interrupted");
    g_assert_true(qs_job_take(back, NULL));
    g_assert_cmpint(qs_job_state(back), ==, QS_JOB_RUNNING);
    g_assert_cmpstr(qs_job_phase(back), ==, "resume");
    g_assert_cmpstr(qs_job_phase_before(back), ==, "begin");
}

/* A job that ends well settles what was left of its VM, and says nothing of another. */
static void test_earlier_ends(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) job = begin(f, "web");
    g_autoptr(QsJob) other = begin(f, "db");
    g_autoptr(QsJob) next = NULL;
    g_autoptr(QsJob) back = NULL;
    g_autoptr(GError) why = NULL;

    (void)data;
    kill_launcher(job);
    kill_launcher(other);
    next = begin(f, "web");
    g_assert_cmpstr(next->id, ==, "web#3");
    qs_fail(&why, QS_VM_ERROR_REFUSED, NULL, NULL, "no");
    qs_job_end(next, why, NULL);
    /* What could not be done settled nothing, and is not what a person means. */
    back = qs_job_find(f->store, "web", NULL);
    g_assert_cmpstr(back->id, ==, "web#1");
    g_assert_cmpint(qs_job_state(back), ==, QS_JOB_INTERRUPTED);
    qs_job_free(back);
    qs_job_end(next, NULL, NULL);
    back = qs_job_find(f->store, "web#1", NULL);
    g_assert_cmpint(qs_job_state(back), ==, QS_JOB_ENDED);
    g_assert_cmpint(back->code, ==, QS_VM_ERROR_RESUMABLE);
    qs_job_free(back);
    back = qs_job_find(f->store, "db", NULL);
    g_assert_cmpint(qs_job_state(back), ==, QS_JOB_INTERRUPTED);
}

static void test_phases_are_bounded(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) job = begin(f, "web");
    g_autoptr(QsJob) back = NULL;

    (void)data;
    for (guint i = 0; i < 2 * QS_JOB_PHASES_MAX; i++) {
        qs_job_enter(job, i % 2 == 0 ? "bulk" : "resume");
    }
    qs_job_enter(job, "done");
    back = qs_job_again(job, NULL);
    g_assert_nonnull(back);
    g_assert_cmpuint(back->n_phases, ==, QS_JOB_PHASES_MAX);
    g_assert_cmpstr(qs_job_phase(back), ==, "done");
}

/* Without the care that a real one takes for what is on the disk. */
static void write_ended(Fixture *f, guint number)
{
    g_autofree char *name = g_strdup_printf("%u.job", number);
    g_autofree char *path = g_build_filename(qs_store_jobs(f->store), name, NULL);
    FILE *file = fopen(path, "w");

    g_assert_nonnull(file);
    g_assert_cmpint(fputs(HEAD "ended=2\n" PROCESS, file), >=, 0);
    g_assert_cmpint(fclose(file), ==, 0);
}

static void test_history_is_bounded(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) running = begin(f, "first");
    g_autoptr(QsJob) left = begin(f, "left");
    g_autoptr(QsJob) last = NULL;
    g_autoptr(GPtrArray) jobs = NULL;
    g_autoptr(QsJob) found = NULL;

    (void)data;
    kill_launcher(left);
    for (guint i = 3; i < QS_JOBS_MAX + 20; i++) {
        write_ended(f, i);
    }
    last = begin(f, "web");
    g_assert_cmpuint(last->number, ==, QS_JOBS_MAX + 20);
    jobs = qs_job_list(f->store, NULL);
    g_assert_cmpuint(jobs->len, ==, QS_JOBS_MAX);
    /* Who runs stays, and who was left stays before who has ended. */
    found = qs_job_find(f->store, "first", NULL);
    g_assert_nonnull(found);
    qs_job_free(found);
    found = qs_job_find(f->store, "left", NULL);
    g_assert_nonnull(found);
    g_assert_null(qs_job_find(f->store, "web#3", NULL));
}

static void test_history_is_bounded_in_bytes(Fixture *f, gconstpointer data)
{
    (void)data;
    for (guint i = 0; i < 5; i++) {
        g_autoptr(QsJob) job = begin(f, "web");
        g_autofree char *samples = qs_job_file(job, QS_SAMPLES_SUFFIX);

        qs_job_end(job, NULL, NULL);
        g_assert_true(g_file_set_contents(samples, "", 0, NULL));
        g_assert_cmpint(truncate(samples, QS_JOBS_BYTES_MAX / 2), ==, 0);
    }
    g_autoptr(GPtrArray) jobs = qs_job_list(f->store, NULL);

    g_assert_cmpuint(jobs->len, ==, 2);
}

/* --- samples --- */

static void add(QsJob *job, const char *stage, guint64 remaining)
{
    QsSample sample = { .stage = stage, .total = 1000, .remaining = remaining, .rate = 5 };

    qs_samples_add(job, &sample);
}

static void test_samples(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) job = begin(f, "web");
    g_autoptr(GArray) all = NULL;
    g_autofree char *path = qs_job_file(job, QS_SAMPLES_SUFFIX);
    g_autoptr(GString) torn = g_string_new(NULL);
    g_autofree char *text = NULL;

    (void)data;
    add(job, "bulk", 900);
    add(job, "bulk", 800); /* too soon */
    add(job, "rounds", 10);
    add(job, "done", 0);
    add(job, "done", 0);
    all = qs_samples_load(job);
    g_assert_cmpuint(all->len, ==, 3);
    g_assert_cmpstr(g_array_index(all, QsSample, 1).stage, ==, "rounds");
    g_assert_cmpuint(g_array_index(all, QsSample, 0).remaining, ==, 900);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_string_append(torn, text);
    g_string_append(torn, "{\"ms\":1,\"stage\":\"bulk\",\"sen");
    g_assert_true(g_file_set_contents(path, torn->str, -1, NULL));
    /* Who goes on begins a line of its own. */
    g_assert_true(qs_job_take(job, NULL));
    add(job, "failed", 7);
    g_array_unref(all);
    all = qs_samples_load(job);
    g_assert_cmpuint(all->len, ==, 4);
    g_assert_cmpstr(g_array_index(all, QsSample, 3).stage, ==, "failed");
}

static void test_samples_are_bounded(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) job = begin(f, "web");
    g_autofree char *path = qs_job_file(job, QS_SAMPLES_SUFFIX);
    struct stat info;

    (void)data;
    for (guint i = 0; i < 3 * QS_SAMPLES_MAX; i++) {
        g_autoptr(GArray) all = NULL;

        /* Each is of another stage than the last, so none is too soon. */
        add(job, i % 2 == 0 ? "bulk" : "rounds", i);
        if (i % 100 != 0) {
            continue;
        }
        all = qs_samples_load(job);
        g_assert_cmpuint(all->len, <, QS_SAMPLES_MAX);
        g_assert_cmpuint(g_array_index(all, QsSample, all->len - 1).remaining, ==, i);
        g_assert_cmpuint(g_array_index(all, QsSample, 0).remaining, ==, 0);
    }
    g_assert_cmpint(stat(path, &info), ==, 0);
    g_assert_cmpint(info.st_size, <, QS_SAMPLES_MAX * 200);
}

static void test_foreign_samples(void)
{
    static const struct {
        const char *text;
        guint good;
    } cases[] = {
#define REST                                                                                       \
    "\"sent\":1,\"total\":2,\"remaining\":3,\"rate\":4,\"dirty_rate\":5,\"downtime_ms\":6}\n"
        { "", 0 },
        { "\n\n\n", 0 },
        { "{}\n", 0 },
        { "{\"ms\":1,\"stage\":\"bulk\"," REST, 1 },
        { "{\"ms\":1,\"stage\":\"dance\"," REST, 0 },
        { "{\"ms\":-1,\"stage\":\"bulk\"," REST, 0 },
        { "{\"ms\":99999999999999999999,\"stage\":\"bulk\"," REST, 0 },
        { "{\"ms\":2,\"stage\":\"bulk\"," REST "{\"ms\":1,\"stage\":\"bulk\"," REST, 1 },
        { "{\"ms\":2,\"stage\":\"bulk\"," REST "nonsense\n{\"ms\":3,\"stage\":\"stop\"," REST, 2 },
    };
    g_autoptr(GString) many = g_string_new(NULL);
    g_autoptr(GArray) all = NULL;

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GArray) found = qs_samples_parse(cases[i].text, strlen(cases[i].text));

        g_assert_cmpuint(found->len, ==, cases[i].good);
    }
    for (guint i = 0; i < 5 * QS_SAMPLES_MAX; i++) {
        g_string_append(many, cases[3].text);
    }
    all = qs_samples_parse(many->str, many->len);
    g_assert_cmpuint(all->len, ==, 2 * QS_SAMPLES_MAX);
}

/* --- for people --- */

typedef struct Seen {
    guint titles, lines, points;
    bool rogue;
    GString *text;
} Seen;

static void see_start(GMarkupParseContext *context, const char *name, const char **names,
                      const char **values, gpointer opaque, GError **error)
{
    Seen *seen = opaque;

    (void)context;
    (void)error;
    seen->titles += g_str_equal(name, "title");
    seen->lines += g_str_equal(name, "polyline");
    seen->rogue = seen->rogue || g_str_equal(name, "script");
    for (guint i = 0; names[i] != NULL; i++) {
        if (g_str_equal(names[i], "points") && seen->points == 0) {
            g_auto(GStrv) points = g_strsplit(values[i], " ", -1);

            seen->points = g_strv_length(points) - 1;
        }
    }
}

static void see_text(GMarkupParseContext *context, const char *text, gsize size, gpointer opaque,
                     GError **error)
{
    (void)context;
    (void)error;
    g_string_append_len(((Seen *)opaque)->text, text, (gssize)size);
}

static void test_chart(Fixture *f, gconstpointer data)
{
    static const GMarkupParser parser = { .start_element = see_start, .text = see_text };
    g_autoptr(GString) said = g_string_new(NULL);
    Seen seen = { .text = said };
    g_autoptr(GMarkupParseContext) context = g_markup_parse_context_new(&parser, 0, &seen, NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(QsJob) job = begin(f, "web");
    g_autoptr(GArray) all = NULL;
    g_autofree char *svg = NULL;

    (void)data;
    g_free(job->peer);
    job->peer = g_strdup("</title><script>\"&'\033");
    job->words = g_strdup("<b> & ]]>");
    add(job, "bulk", 900);
    add(job, "rounds", 10);
    add(job, "stop", 0);
    all = qs_samples_load(job);
    svg = qs_chart_svg(job, all);
    g_assert_true(g_markup_parse_context_parse(context, svg, (gssize)strlen(svg), &error));
    g_assert_no_error(error);
    g_assert_true(g_markup_parse_context_end_parse(context, &error));
    g_assert_no_error(error);
    g_assert_false(seen.rogue);
    g_assert_cmpuint(seen.lines, ==, 3);
    g_assert_cmpuint(seen.points, ==, 3);
    /* The drawing's and one of each stage. */
    g_assert_cmpuint(seen.titles, ==, 4);
    g_assert_nonnull(strstr(said->str, "</title><script>\"&' "));
    g_assert_null(strchr(svg, '\033'));
}

static void test_empty_chart(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) job = begin(f, "web");
    g_autoptr(GArray) all = qs_samples_load(job);
    g_autofree char *svg = qs_chart_svg(job, all);
    g_autofree char *text = qs_report_text(job, all);

    (void)data;
    g_assert_nonnull(strstr(svg, "nothing was measured"));
    g_assert_null(strstr(svg, "polyline id"));
    g_assert_nonnull(strstr(text, "running"));
}

static void test_report(Fixture *f, gconstpointer data)
{
    g_autoptr(QsJob) job = begin(f, "web");
    g_autoptr(GArray) all = NULL;
    g_autoptr(JsonObject) object = NULL;
    g_autofree char *text = NULL;

    (void)data;
    qs_job_enter(job, "bulk");
    add(job, "bulk", 900);
    qs_job_end(job, NULL, "it is there");
    all = qs_samples_load(job);
    object = qs_report_json(job, all);
    g_assert_cmpstr(json_object_get_string_member(object, "state"), ==, "done");
    g_assert_cmpint(json_object_get_int_member(object, "code"), ==, 0);
    g_assert_cmpuint(json_array_get_length(json_object_get_array_member(object, "samples")), ==, 1);
    g_assert_cmpuint(json_array_get_length(json_object_get_array_member(object, "phases")), ==, 1);
    text = qs_report_text(job, all);
    g_assert_nonnull(strstr(text, "it is there"));
    g_assert_nonnull(strstr(text, "web#1"));
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(Fixture *f, gconstpointer data);
    } tests[] = {
        { "/job/round-trip", test_round_trip },
        { "/job/ends", test_ends },
        { "/job/long-words", test_long_words },
        { "/job/torn", test_torn },
        { "/job/foreign", test_foreign },
        { "/job/huge", test_huge },
        { "/job/no-file", test_no_file },
        { "/job/reused-pid", test_reused_pid },
        { "/job/earlier-ends", test_earlier_ends },
        { "/job/phases-are-bounded", test_phases_are_bounded },
        { "/job/history-is-bounded", test_history_is_bounded },
        { "/job/history-is-bounded-in-bytes", test_history_is_bounded_in_bytes },
        { "/job/samples", test_samples },
        { "/job/samples-are-bounded", test_samples_are_bounded },
        { "/job/chart", test_chart },
        { "/job/empty-chart", test_empty_chart },
        { "/job/report", test_report },
    };

    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(tests); i++) {
        g_test_add(tests[i].name, Fixture, NULL, set_up, tests[i].run, tear_down);
    }
    g_test_add_func("/job/foreign-samples", test_foreign_samples);
    return g_test_run();
}
