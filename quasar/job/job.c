/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "job/job.h"

#include "job/samples.h"
#include "vm/def.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".job"
#define GROUP "job"
#define PHASES "phases"
#define NOTES "notes"
#define VERSION 1
/* Of a record; ours have one or two thousand. */
#define FILE_MAX 65536
#define TEXT_MAX 4096u
#define NUMBER_MAX 999999999u
#define ATTEMPTS 100u

static const char *const verbs[] = { "migrate", "receive", "save", "restore", NULL };

/* In the order in which they come, verb after verb; one set, since many share some. */
static const char *const words[] = {
    "agree", "files",  "listen", "prepare", "bulk",   "rounds", "stop", "commit",
    "done",  "failed", "finish", "remove",  "pause",  "state",  "pack", "publish",
    "end",   "unpack", "load",   "run",     "resume", NULL,
};

void qs_job_free(QsJob *job)
{
    if (job == NULL) {
        return;
    }
    qs_samples_free(job->samples);
    g_clear_pointer(&job->notes, g_key_file_unref);
    g_free(job->id);
    g_free(job->path);
    g_free(job->verb);
    g_free(job->vm);
    g_free(job->uuid);
    g_free(job->peer);
    g_free(job->words);
    g_free(job);
}

const char *qs_job_phase_word(const char *word)
{
    for (guint i = 0; word != NULL && words[i] != NULL; i++) {
        if (g_str_equal(word, words[i])) {
            return words[i];
        }
    }
    return NULL;
}

const char *qs_job_phase(const QsJob *job)
{
    return job->n_phases == 0 ? "begin" : job->phases[job->n_phases - 1].word;
}

const char *qs_job_phase_before(const QsJob *job)
{
    for (guint i = job->n_phases; i > 0; i--) {
        if (!g_str_equal(job->phases[i - 1].word, "resume")) {
            return job->phases[i - 1].word;
        }
    }
    return "begin";
}

char *qs_job_file(const QsJob *job, const char *suffix)
{
    g_autofree char *stem = g_strndup(job->path, strlen(job->path) - strlen(SUFFIX));

    return g_strconcat(stem, suffix, NULL);
}

/* --- the record --- */

static void set_text(GKeyFile *file, const char *key, const char *value)
{
    if (value != NULL) {
        g_key_file_set_string(file, GROUP, key, value);
    }
}

static GKeyFile *pack(const QsJob *job)
{
    GKeyFile *file = g_key_file_new();
    g_auto(GStrv) notes = g_key_file_get_keys(job->notes, NOTES, NULL, NULL);

    g_key_file_set_integer(file, GROUP, "version", VERSION);
    set_text(file, "verb", job->verb);
    set_text(file, "vm", job->vm);
    set_text(file, "uuid", job->uuid);
    set_text(file, "peer", job->peer);
    g_key_file_set_int64(file, GROUP, "began", job->began);
    if (job->ended != 0) {
        g_key_file_set_int64(file, GROUP, "ended", job->ended);
        g_key_file_set_integer(file, GROUP, "code", job->code);
        set_text(file, "words", job->words);
    }
    qs_process_put(&job->launcher, file);
    for (guint i = 0; i < job->n_phases; i++) {
        g_autofree char *key = g_strdup_printf("%02u-%s", i, job->phases[i].word);

        g_key_file_set_int64(file, PHASES, key, job->phases[i].at);
    }
    for (guint i = 0; notes != NULL && notes[i] != NULL; i++) {
        g_autofree char *value = g_key_file_get_value(job->notes, NOTES, notes[i], NULL);

        g_key_file_set_value(file, NOTES, notes[i], value);
    }
    return file;
}

static bool fail_record(const char *path, const char *what, GError **error)
{
    return qs_fail(error, QS_VM_ERROR_FAILED, NULL, "remove the file; no VM is touched by that",
                   "%s is no record of a job: %s", path, what);
}

/* NULL when there is none; too long is none either, and @ret_good says so. */
static char *get_text(GKeyFile *file, const char *key, bool *ret_good)
{
    g_autofree char *text = g_key_file_get_string(file, GROUP, key, NULL);

    if (text != NULL && strlen(text) > TEXT_MAX) {
        *ret_good = false;
        return NULL;
    }
    return g_steal_pointer(&text);
}

static bool read_phases(QsJob *job, GKeyFile *file)
{
    g_auto(GStrv) keys = g_key_file_get_keys(file, PHASES, NULL, NULL);
    guint count = keys == NULL ? 0 : g_strv_length(keys);

    if (count > QS_JOB_PHASES_MAX) {
        return false;
    }
    for (guint i = 0; i < count; i++) {
        const char *dash = strchr(keys[i], '-');
        const char *word = dash == NULL ? NULL : qs_job_phase_word(dash + 1);

        if (word == NULL) {
            return false;
        }
        job->phases[i] = (QsJobPhase){ word, g_key_file_get_int64(file, PHASES, keys[i], NULL) };
    }
    job->n_phases = count;
    return true;
}

static void read_notes(QsJob *job, GKeyFile *file)
{
    g_auto(GStrv) keys = g_key_file_get_keys(file, NOTES, NULL, NULL);

    for (guint i = 0; keys != NULL && keys[i] != NULL; i++) {
        g_autofree char *value = g_key_file_get_value(file, NOTES, keys[i], NULL);

        g_key_file_set_value(job->notes, NOTES, keys[i], value);
    }
}

static QsJob *new_job(guint number, const char *path)
{
    QsJob *job = g_new0(QsJob, 1);

    job->number = number;
    job->path = g_strdup(path);
    job->notes = g_key_file_new();
    return job;
}

static QsJob *unpack(GKeyFile *file, const char *path, guint number, GError **error)
{
    g_autoptr(QsJob) job = new_job(number, path);
    bool good = true;

    if (g_key_file_get_integer(file, GROUP, "version", NULL) != VERSION) {
        fail_record(path, "it is not of this version", error);
        return NULL;
    }
    job->verb = get_text(file, "verb", &good);
    job->vm = get_text(file, "vm", &good);
    job->uuid = get_text(file, "uuid", &good);
    job->peer = get_text(file, "peer", &good);
    job->words = get_text(file, "words", &good);
    job->began = g_key_file_get_int64(file, GROUP, "began", NULL);
    job->ended = g_key_file_get_int64(file, GROUP, "ended", NULL);
    job->code = g_key_file_get_integer(file, GROUP, "code", NULL);
    if (!good || job->verb == NULL || !g_strv_contains(verbs, job->verb) || job->vm == NULL ||
        !qs_name_check(job->vm, NULL)) {
        fail_record(path, "its verb or VM makes no sense", error);
        return NULL;
    }
    if (job->began <= 0 || job->ended < 0 || job->code < 0 || job->code > 255) {
        fail_record(path, "its times make no sense", error);
        return NULL;
    }
    if (!qs_process_get(&job->launcher, file)) {
        fail_record(path, "it names no launcher", error);
        return NULL;
    }
    if (!read_phases(job, file)) {
        fail_record(path, "its phases make no sense", error);
        return NULL;
    }
    read_notes(job, file);
    job->id = g_strdup_printf("%s#%u", job->vm, number);
    return g_steal_pointer(&job);
}

/* No more than FILE_MAX bytes are taken, whatever grows there. */
static char *read_small(const char *path, gsize *ret_size, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    g_autofree char *text = g_malloc(FILE_MAX + 1);
    struct stat info;
    gsize size = 0;
    ssize_t n = -1;

    if (fd < 0) {
        qs_fail_errno(error, errno, "%s", path);
        return NULL;
    }
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode)) {
        while (size <= FILE_MAX && (n = read(fd, text + size, FILE_MAX + 1 - size)) > 0) {
            size += (gsize)n;
        }
    }
    close(fd);
    if (n < 0 || size > FILE_MAX) {
        fail_record(path, size > FILE_MAX ? "it is too long" : "it cannot be read", error);
        return NULL;
    }
    *ret_size = size;
    return g_steal_pointer(&text);
}

QsJob *qs_job_load(const char *path, guint number, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(GError) own = NULL;
    gsize size = 0;
    g_autofree char *text = read_small(path, &size, error);

    if (text == NULL) {
        return NULL;
    }
    if (!g_utf8_validate(text, (gssize)size, NULL) ||
        !g_key_file_load_from_data(file, text, size, G_KEY_FILE_NONE, &own)) {
        fail_record(path, own != NULL ? own->message : "it is no text", error);
        return NULL;
    }
    return unpack(file, path, number, error);
}

QsJob *qs_job_again(const QsJob *job, GError **error)
{
    return qs_job_load(job->path, job->number, error);
}

static void save(const QsJob *job)
{
    g_autoptr(GKeyFile) file = pack(job);

    g_key_file_save_to_file(file, job->path, NULL);
}

/* --- which there are --- */

static guint number_of(const char *file)
{
    g_autofree char *digits = NULL;
    guint64 number;

    if (!g_str_has_suffix(file, SUFFIX)) {
        return 0;
    }
    digits = g_strndup(file, strlen(file) - strlen(SUFFIX));
    return g_ascii_string_to_unsigned(digits, 10, 1, NUMBER_MAX, &number, NULL) ? (guint)number : 0;
}

static gint compare_numbers(gconstpointer a, gconstpointer b)
{
    guint one = *(const guint *)a, other = *(const guint *)b;

    return one < other ? -1 : one > other;
}

/* In order. A folder that somebody filled is read no further than is sensible. */
static GArray *list_numbers(const char *folder)
{
    GArray *numbers = g_array_new(FALSE, FALSE, sizeof(guint));
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *file;

    while (dir != NULL && numbers->len < 10 * QS_JOBS_MAX &&
           (file = g_dir_read_name(dir)) != NULL) {
        guint number = number_of(file);

        if (number != 0) {
            g_array_append_val(numbers, number);
        }
    }
    g_array_sort(numbers, compare_numbers);
    return numbers;
}

static char *path_of(const char *folder, guint number)
{
    g_autofree char *file = g_strdup_printf("%u" SUFFIX, number);

    return g_build_filename(folder, file, NULL);
}

static GPtrArray *list_jobs(const char *folder, GPtrArray *problems)
{
    GPtrArray *jobs = g_ptr_array_new_with_free_func((GDestroyNotify)qs_job_free);
    g_autoptr(GArray) numbers = list_numbers(folder);

    for (guint i = 0; i < numbers->len; i++) {
        guint number = g_array_index(numbers, guint, i);
        g_autofree char *path = path_of(folder, number);
        g_autoptr(GError) own = NULL;
        QsJob *job = qs_job_load(path, number, &own);

        if (job != NULL) {
            g_ptr_array_add(jobs, job);
        } else if (problems != NULL && g_file_test(path, G_FILE_TEST_EXISTS)) {
            g_ptr_array_add(problems, g_strdup(own->message));
        }
    }
    return jobs;
}

GPtrArray *qs_job_list(const QsStore *store, GPtrArray **ret_problems)
{
    g_autoptr(GPtrArray) problems = g_ptr_array_new_with_free_func(g_free);
    GPtrArray *jobs = list_jobs(qs_store_jobs(store), problems);

    if (ret_problems != NULL) {
        *ret_problems = g_steal_pointer(&problems);
    }
    return jobs;
}

static QsJob *find_latest(const QsStore *store, const char *vm, GError **error)
{
    g_autoptr(GPtrArray) jobs = list_jobs(qs_store_jobs(store), NULL);
    guint found = 0; /* from 1 */

    for (guint i = jobs->len; i > 0; i--) {
        QsJob *job = jobs->pdata[i - 1];

        if (!g_str_equal(job->vm, vm)) {
            continue;
        }
        if (job->ended == 0) {
            return g_ptr_array_steal_index(jobs, i - 1);
        }
        found = MAX(found, i);
    }
    if (found > 0) {
        return g_ptr_array_steal_index(jobs, found - 1);
    }
    qs_fail(error, QS_VM_ERROR_FAILED, NULL, "quasar-run jobs --all lists what there is",
            "there is no job of \"%s\"", vm);
    return NULL;
}

QsJob *qs_job_find(const QsStore *store, const char *text, GError **error)
{
    const char *hash = strchr(text, '#');
    g_autofree char *path = NULL;
    g_autoptr(QsJob) job = NULL;
    guint64 number;

    if (hash == NULL) {
        return qs_name_check(text, error) ? find_latest(store, text, error) : NULL;
    }
    if (!g_ascii_string_to_unsigned(hash + 1, 10, 1, NUMBER_MAX, &number, NULL)) {
        qs_fail(error, QS_VM_ERROR_USAGE, NULL, "quasar-run jobs lists them",
                "this is no job: NAME#NUMBER is");
        return NULL;
    }
    path = path_of(qs_store_jobs(store), (guint)number);
    if (g_file_test(path, G_FILE_TEST_EXISTS)) {
        job = qs_job_load(path, (guint)number, error);
        if (job == NULL) {
            return NULL;
        }
    }
    if (job == NULL || !g_str_equal(job->id, text)) {
        qs_fail(error, QS_VM_ERROR_FAILED, NULL, "quasar-run jobs --all lists what there is",
                "there is no job \"%.80s\"", text);
        return NULL;
    }
    return g_steal_pointer(&job);
}

/* --- states --- */

int qs_job_pin(const QsJob *job)
{
    return job->ended != 0 ? -1 : qs_process_pin(&job->launcher);
}

QsJobState qs_job_state(const QsJob *job)
{
    int pidfd = qs_job_pin(job);

    if (pidfd < 0) {
        return job->ended != 0 ? QS_JOB_ENDED : QS_JOB_INTERRUPTED;
    }
    close(pidfd);
    return QS_JOB_RUNNING;
}

const char *qs_job_state_word(const QsJob *job)
{
    switch (qs_job_state(job)) {
    case QS_JOB_RUNNING: return "running";
    case QS_JOB_INTERRUPTED: return "interrupted";
    default: break;
    }
    return job->code == 0                       ? "done"
           : job->code == QS_VM_ERROR_CANCELLED ? "cancelled"
           : job->code == QS_VM_ERROR_UNCERTAIN ? "uncertain"
                                                : "failed";
}

/* --- the history --- */

static void discard(const QsJob *job)
{
    g_autofree char *samples = qs_job_file(job, QS_SAMPLES_SUFFIX);
    g_autofree char *before = qs_job_file(job, ".before");

    g_unlink(samples);
    g_unlink(before);
    g_unlink(job->path);
}

static guint64 bytes_of(const QsJob *job)
{
    g_autofree char *samples = qs_job_file(job, QS_SAMPLES_SUFFIX);
    struct stat info;
    guint64 bytes = 0;

    if (stat(job->path, &info) == 0) {
        bytes += (guint64)info.st_size;
    }
    if (stat(samples, &info) == 0) {
        bytes += (guint64)info.st_size;
    }
    return bytes;
}

/* One more is about to come. */
static void prune(GPtrArray *jobs)
{
    guint64 bytes = 0;

    for (guint i = 0; i < jobs->len; i++) {
        bytes += bytes_of(jobs->pdata[i]);
    }
    for (int state = QS_JOB_ENDED; state > QS_JOB_RUNNING; state--) {
        for (guint i = 0; i < jobs->len;) {
            QsJob *job = jobs->pdata[i];

            if (jobs->len < QS_JOBS_MAX && bytes <= QS_JOBS_BYTES_MAX) {
                return;
            }
            if (qs_job_state(job) != (QsJobState)state) {
                i++;
                continue;
            }
            bytes -= MIN(bytes, bytes_of(job));
            discard(job);
            g_ptr_array_remove_index(jobs, i);
        }
    }
}

/* What an earlier launcher left of this VM is settled. */
static void end_earlier(GPtrArray *jobs, const char *vm, guint before)
{
    g_autoptr(GError) why = NULL;

    qs_fail(&why, QS_VM_ERROR_RESUMABLE, NULL, NULL,
            "its launcher ended, and a later command took up what it left");
    for (guint i = 0; i < jobs->len; i++) {
        QsJob *job = jobs->pdata[i];

        if (job->number < before && g_str_equal(job->vm, vm) &&
            qs_job_state(job) == QS_JOB_INTERRUPTED) {
            qs_job_end(job, why, NULL);
        }
    }
}

/* Under the next free number, whole from the first moment on. */
static bool enlist(QsJob *job, const char *folder, GError **error)
{
    g_autoptr(GArray) numbers = list_numbers(folder);
    guint number = numbers->len == 0 ? 1 : g_array_index(numbers, guint, numbers->len - 1) + 1;
    g_autofree char *fresh = g_strdup_printf("%s/new-%d", folder, (int)getpid());
    g_autoptr(GKeyFile) file = pack(job);

    if (!g_key_file_save_to_file(file, fresh, error)) {
        return false;
    }
    for (guint i = 0; i < ATTEMPTS; i++, number++) {
        g_autofree char *path = path_of(folder, number);

        if (link(fresh, path) == 0) {
            g_unlink(fresh);
            g_free(job->path);
            job->path = g_steal_pointer(&path);
            job->number = number;
            job->id = g_strdup_printf("%s#%u", job->vm, number);
            return true;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    qs_fail_errno(error, errno, "cannot record a job in %s", folder);
    g_unlink(fresh);
    return false;
}

QsJob *qs_job_begin(const QsStore *store, const char *verb, const char *vm, const char *uuid,
                    const char *peer, GError **error)
{
    const char *folder = qs_store_jobs(store);
    g_autoptr(GPtrArray) jobs = list_jobs(folder, NULL);
    g_autoptr(QsJob) job = new_job(0, "");
    g_autoptr(GError) own = NULL;

    job->verb = g_strdup(verb);
    job->vm = g_strdup(vm);
    job->uuid = g_strdup(uuid);
    job->peer = g_strdup(peer);
    job->began = g_get_real_time();
    prune(jobs);
    if (g_mkdir_with_parents(folder, 0700) < 0) {
        qs_fail_errno(&own, errno, "cannot create %s", folder);
    } else if (qs_process_read(getpid(), &job->launcher, &own) && enlist(job, folder, &own)) {
        job->samples = qs_samples_new(job);
        return g_steal_pointer(&job);
    }
    qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "%s", own->message);
    return NULL;
}

void qs_job_settle(const QsJob *job)
{
    g_autofree char *folder = g_path_get_dirname(job->path);
    g_autoptr(GPtrArray) jobs = list_jobs(folder, NULL);

    end_earlier(jobs, job->vm, job->number);
}

bool qs_job_take(QsJob *job, GError **error)
{
    if (!qs_process_read(getpid(), &job->launcher, error)) {
        return false;
    }
    g_clear_pointer(&job->samples, qs_samples_free);
    job->samples = qs_samples_new(job);
    job->ended = 0;
    g_clear_pointer(&job->words, g_free);
    qs_job_enter(job, "resume");
    /* Also when that was its phase already. */
    save(job);
    return true;
}

/* The last place is the end's. */
void qs_job_enter(QsJob *job, const char *phase)
{
    const char *word = qs_job_phase_word(phase);

    if (job == NULL || word == NULL || word == qs_job_phase(job)) {
        return;
    }
    if (job->n_phases == QS_JOB_PHASES_MAX) {
        job->n_phases--;
    }
    job->phases[job->n_phases++] = (QsJobPhase){ word, g_get_real_time() };
    save(job);
}

void qs_job_note(QsJob *job, const char *key, const char *value)
{
    if (job == NULL || value == NULL || strlen(value) > TEXT_MAX) {
        return;
    }
    g_key_file_set_string(job->notes, NOTES, key, value);
    save(job);
}

char *qs_job_noted(const QsJob *job, const char *key)
{
    return g_key_file_get_string(job->notes, NOTES, key, NULL);
}

static gint code_of(const GError *why)
{
    return why == NULL ? 0 : why->domain == QS_VM_ERROR ? why->code : QS_VM_ERROR_FAILED;
}

void qs_job_end(QsJob *job, const GError *why, const char *text)
{
    g_autofree char *line = NULL;

    if (job == NULL) {
        return;
    }
    line = why != NULL ? qs_fail_line(why->message) : g_strdup(text);
    if (line != NULL && strlen(line) > TEXT_MAX) {
        /* Not in the middle of a character. */
        *g_utf8_find_prev_char(line, line + TEXT_MAX - 1) = '\0';
    }
    job->ended = g_get_real_time();
    job->code = code_of(why);
    g_free(job->words);
    job->words = g_steal_pointer(&line);
    save(job);
    if (job->code == 0) {
        qs_job_settle(job);
    }
}
