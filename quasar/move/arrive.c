/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Before the source is told "accept" nothing is touched; after it everything that is made goes
 * again unless the VM came. Until QEMU is started, what is made are pieces (see vm/pieces.h).
 * Before anything can arrive the definition is written, marked as arriving: a launcher that dies
 * later leaves a VM that has a name, and that `start` takes up where its QEMU says that it is here.
 *
 * QEMUs decide, and have a connection of their own. So while QEMU lives, it is only ended when it
 * says that it failed, when nothing can reach it, or when the source says that it keeps the VM. If
 * it ended by itself, the VM may have been here: nothing is removed unless the source says so.
 *
 * A source is a stranger: no path, socket or right of this host comes from it. Its files get names
 * of ours; a network that is a socket must be named on this side.
 */
#include "move/arrive.h"

#include "move/examine.h"
#include "move/image.h"
#include "move/session.h"
#include "move/stream.h"
#include "vm/args.h"
#include "vm/foreign.h"
#include "vm/host.h"
#include "vm/pieces.h"
#include "vm/relay.h"
#include "vm/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define LOOK_MS 250
/* For the first connection of the source's QEMU, and for its word after a failure. */
#define IDLE_US (G_GINT64_CONSTANT(120) * G_USEC_PER_SEC)
/* Without a source to talk to: by then its QEMU has connected, all lanes of it, or never will. */
#define QUIET_US (G_GINT64_CONSTANT(10) * G_USEC_PER_SEC)
/* What was let in before the key went has said its first word by then. */
#define CLOSED_US (G_GINT64_CONSTANT(5) * G_USEC_PER_SEC)
/* Every move is undecided for a moment, and that of a slow link for longer. */
#define DOUBT_US (G_GINT64_CONSTANT(10) * G_USEC_PER_SEC)
/* For the source to find out that its session has ended, and to say so. */
#define ALONE_US (G_GINT64_CONSTANT(150) * G_USEC_PER_SEC)
/* What QEMU takes besides the guest's memory. */
#define OVERHEAD_MIB 128u
#define REACH_MS 5000u
/* A relay that answers does so at once. */
#define SETTLE_MS 2000u
/* Beside the record, what the definition was; and in it, where its new files are. */
#define BEFORE ".before"
#define FOLDER "folder"

typedef struct Arrival {
    const QsArrive *arrive;
    QsLines *lines; /* NULL: for a receiver that died */
    QsOffer *offer;
    QsVm *vm;
    QsJob *job;    /* NULL while there is only a check */
    QsDef *before; /* of a VM that left and comes back */
    char *folder;  /* NULL until it was made */
    char *aside;   /* the secret of the one that left; NULL: it had none */
    QsVmNotes notes;
    bool launched;
    bool heard;     /* the source can still be talked with */
    bool abandoned; /* the source keeps it */
    bool told;      /* and knows that nothing is left here */
    gint64 ended;   /* when the source said that its QEMU has; 0 */
} Arrival;

/* --- what is looked at first --- */

static bool check_name(Arrival *a, GError **error)
{
    g_autofree char *path = qs_store_definition(a->arrive->store, a->offer->name);
    g_autoptr(QsDef) there = NULL;

    if (qs_vm_is_alive(a->vm)) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "a VM \"%s\" runs there",
                       a->offer->name);
    }
    if (!qs_vm_exists(a->vm)) {
        return true;
    }
    there = qs_def_load(path, NULL);
    if (there == NULL || there->moved == NULL || g_strcmp0(there->uuid, a->offer->def->uuid) != 0) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "delete or rename one of them",
                       "there is a VM \"%s\" already", a->offer->name);
    }
    a->before = g_steal_pointer(&there);
    a->aside = qs_secret_set_aside(a->vm);
    return true;
}

static bool disarm(Arrival *a, GError **error)
{
    QsDef *def = a->offer->def;

    if (def->firmware != NULL && strchr(def->firmware, '/') != NULL) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "name it as it is called in QEMU's folder",
                       "firmware by a path cannot move");
    }
    return qs_foreign_disarm(def, a->arrive->net,
                             a->before != NULL ? a->before->scope : a->arrive->scope, error);
}

static bool check_memory(const Arrival *a, GError **error)
{
    guint64 all, mib;

    if (!qs_host_memory(&all, &mib)) {
        return true;
    }
    return mib >= a->offer->def->memory + OVERHEAD_MIB ||
           qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL,
                   "it needs %u MiB of memory, and %" G_GUINT64_FORMAT " MiB are free",
                   a->offer->def->memory + OVERHEAD_MIB, mib);
}

static bool check_space(const Arrival *a, GError **error)
{
    g_autofree char *folder = qs_store_images(a->arrive->store, a->offer->name);
    g_autofree char *there = NULL;
    guint64 needed = 0, space;

    for (guint i = 0; i < a->offer->n_disks; i++) {
        needed += MIN(a->offer->disks[i].allocated, a->offer->disks[i].size);
    }
    for (guint i = 0; i < a->offer->n_files; i++) {
        needed += a->offer->files[i].size;
    }
    space = qs_host_space(folder, &there);
    return needed <= space ||
           qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL,
                   "it needs %" G_GUINT64_FORMAT " MiB, and %s has %" G_GUINT64_FORMAT " MiB free",
                   needed >> 20, there, space >> 20);
}

static bool check_machine(const Arrival *a, GError **error)
{
    const QsDef *def = a->offer->def;
    g_autofree char *qemu = qs_args_find_qemu(def->guest, error);
    const char *argv[] = { qemu, "-machine", "help", NULL };
    g_autofree char *text = NULL;
    g_autofree char *line = g_strconcat("\n", def->machine, " ", NULL);
    g_autoptr(GError) own = NULL;

    if (qemu == NULL) {
        return false;
    }
    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &text,
                      NULL, NULL, &own)) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "%s", own->message);
    }
    return strstr(text, line) != NULL ||
           qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "install the same release on both hosts",
                   "its QEMU knows no machine %s", def->machine);
}

/* Or it would arrive and lose its connections. */
static bool check_relay(const Arrival *a, GError **error)
{
    const QsDef *def = a->offer->def;
    g_autofree char *own = NULL;
    QsRelay relay;

    if (!qs_def_net_is_relay(def->net)) {
        return true;
    }
    if (!a->offer->secret && (own = qs_secret_find(a->vm, def, error)) == NULL) {
        return false;
    }
    return qs_def_parse_relay(def->net, &relay, error) &&
           qs_relay_reach(&relay, REACH_MS, a->arrive->cancellable, error);
}

static bool check(Arrival *a, GError **error)
{
    return check_name(a, error) && disarm(a, error) && check_machine(a, error) &&
           check_memory(a, error) && check_space(a, error) && check_relay(a, error);
}

/* --- what is made --- */

static bool make_folder(Arrival *a, GError **error)
{
    g_autofree char *base = qs_store_images(a->arrive->store, a->offer->name);
    g_autofree char *parent = g_path_get_dirname(base);

    if (strchr(base, ';') != NULL) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "%s must not hold ';'", base);
    }
    if (g_mkdir_with_parents(parent, 0700) < 0) {
        return qs_fail_errno(error, errno, "cannot create %s", parent);
    }
    /* What an earlier stay left is not touched. */
    for (guint i = 1; i < 1000; i++) {
        g_autofree char *folder = i == 1 ? g_strdup(base) : g_strdup_printf("%s-%u", base, i);

        if (qs_pieces_make(a->vm, folder)) {
            a->folder = g_steal_pointer(&folder);
            qs_job_note(a->job, FOLDER, a->folder);
            return true;
        }
        if (errno != EEXIST) {
            return qs_fail_errno(error, errno, "cannot create %s", folder);
        }
    }
    return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "%s and its likes exist", base);
}

static bool write_all(int fd, const guint8 *bytes, gsize size)
{
    while (size > 0) {
        ssize_t n = write(fd, bytes, size);

        if (n < 0 && errno != EINTR) {
            return false;
        }
        bytes += MAX(n, 0);
        size -= (gsize)MAX(n, 0);
    }
    return true;
}

static bool fill_file(Arrival *a, int fd, const char *path, guint64 left, GError **error)
{
    while (left > 0) {
        g_autoptr(JsonObject) message =
            qs_talk_expect(a->lines, "file", QS_TALK_ANSWER_MS, a->arrive->cancellable, error);
        const char *data;
        g_autofree guint8 *bytes = NULL;
        gsize size = 0;

        if (message == NULL) {
            return false;
        }
        data = qs_json_get_string(message, "data", NULL);
        bytes = data == NULL ? NULL : g_base64_decode(data, &size);
        if (size == 0 || size > left) {
            return qs_lines_fail(a->lines, error, "a piece of a file that does not fit");
        }
        if (!write_all(fd, bytes, size)) {
            return qs_fail_errno(error, errno, "cannot write %s", path);
        }
        left -= size;
    }
    return true;
}

static bool take_files(Arrival *a, GError **error)
{
    for (guint i = 0; i < a->offer->n_files; i++) {
        const QsTalkFile *file = &a->offer->files[i];
        g_autofree char *path = g_build_filename(a->folder, file->key, NULL);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        bool done;

        if (fd < 0) {
            return qs_fail_errno(error, errno, "cannot create %s", path);
        }
        done = fill_file(a, fd, path, file->size, error);
        close(fd);
        if (!done || !qs_def_set(a->offer->def, file->key, path, error)) {
            return false;
        }
    }
    return true;
}

static bool make_images(Arrival *a, GError **error)
{
    QsDef *def = a->offer->def;

    for (guint i = 0; i < a->offer->n_disks; i++) {
        g_autofree char *name = g_strdup_printf("image%u", i);
        g_autofree char *path = g_build_filename(a->folder, name, NULL);

        if (!qs_image_create(path, def->image_format[i], a->offer->disks[i].size, error)) {
            return false;
        }
        g_free(def->image[i]);
        def->image[i] = g_steal_pointer(&path);
    }
    return true;
}

/* The source may say no more than a few words about where QEMU listens. */
static const char *listen_address(JsonObject *prepare)
{
    const char *scope = qs_json_get_string(prepare, "listen", NULL);

    return g_strcmp0(scope, "loopback") == 0 ? "127.0.0.1"
           : g_strcmp0(scope, "ipv6") == 0   ? "[::]"
                                             : "0.0.0.0";
}

static bool read_port(QsQmp *qmp, gint64 *ret_port, GError **error)
{
    g_autoptr(JsonObject) found =
        qs_qmp_query(qmp, "query-migrate", qs_qmp_deadline(QS_TALK_ANSWER_MS), NULL, error);
    JsonNode *node = found == NULL ? NULL : json_object_get_member(found, "socket-address");
    JsonNode *one = node != NULL && JSON_NODE_HOLDS_ARRAY(node) &&
                            json_array_get_length(json_node_get_array(node)) > 0
                        ? json_array_get_element(json_node_get_array(node), 0)
                        : NULL;
    const char *port = one != NULL && JSON_NODE_HOLDS_OBJECT(one)
                           ? qs_json_get_string(json_node_get_object(one), "port", NULL)
                           : NULL;
    guint64 number;

    if (found == NULL) {
        return false;
    }
    if (port == NULL || !g_ascii_string_to_unsigned(port, 10, 1, 65535, &number, NULL)) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "QEMU does not say where it listens");
    }
    *ret_port = (gint64)number;
    return true;
}

static bool read_limits(JsonObject *prepare, QsMoveLimits *ret_limits)
{
    guint64 lanes = 0;

    if (!qs_json_get_u64(prepare, "lanes", &lanes, NULL) || lanes > 64) {
        return false;
    }
    *ret_limits = (QsMoveLimits){ .lanes = (guint)lanes };
    return true;
}

/* What comes inside the source's way to reach us goes to the same port. */
static bool offer_stream(Arrival *a, JsonObject *prepare, gint64 port, GError **error)
{
    const char *name = qs_json_get_string(prepare, "stream", NULL);
    bool six = g_str_equal(listen_address(prepare), "[::]");

    if (name == NULL) {
        return true;
    }
    return qs_move_key_check(name)
               ? qs_stream_offer(a->vm, name, six ? "::1" : "127.0.0.1", (guint16)port, error)
               : qs_lines_fail(a->lines, error, "a malformed name of a stream");
}

static bool listen_for(Arrival *a, QsQmp *qmp, JsonObject *prepare, gint64 *ret_port,
                       GError **error)
{
    const char *key = qs_json_get_string(prepare, "key", NULL);
    QsMoveLimits limits;
    JsonObject *where;
    g_autofree char *uri = g_strdup_printf("quasar:%s:0", listen_address(prepare));

    if (!qs_move_key_check(key) || !read_limits(prepare, &limits)) {
        return qs_lines_fail(a->lines, error, "a malformed word to prepare");
    }
    where = json_object_new();
    json_object_set_string_member(where, "uri", uri);
    /* Or QEMU would end, and what it knows with it. */
    json_object_set_boolean_member(where, "exit-on-error", FALSE);
    /* With `cont` the guest goes on by itself when it is here, if it ran there. */
    if (!qs_move_secure(a->vm, qmp, key, true, error) || !qs_move_limit(qmp, &limits, error) ||
        !qs_move_execute(qmp, "cont", NULL, error)) {
        json_object_unref(where);
        return false;
    }
    return qs_move_execute(qmp, "migrate-incoming", where, error) &&
           read_port(qmp, ret_port, error) && offer_stream(a, prepare, *ret_port, error);
}

static bool take_secret(Arrival *a, JsonObject *message, GError **error)
{
    const char *digits = qs_json_get_string(message, "relay-secret", NULL);
    QsRelay relay;

    if (!a->offer->secret || !qs_def_net_is_relay(a->offer->def->net)) {
        return true;
    }
    if (!qs_secret_check(digits)) {
        return qs_lines_fail(a->lines, error, "a malformed secret");
    }
    return qs_def_parse_relay(a->offer->def->net, &relay, error) &&
           qs_secret_keep(a->vm, &relay, digits, error);
}

/* From here on the files are those of a VM that has a name. */
static bool enlist(Arrival *a, GError **error)
{
    qs_vm_set_def(a->vm, g_steal_pointer(&a->offer->def));
    if (!qs_vm_mark_moved(a->vm, QS_DEF_ARRIVING, error)) {
        return false;
    }
    qs_pieces_keep(a->vm);
    /* The mark stays in the file alone: what QEMU is started with is the VM's. */
    return qs_def_set(qs_vm_def(a->vm), "moved", "", error);
}

static bool prepare(Arrival *a, GError **error)
{
    g_autoptr(JsonObject) message = NULL;
    g_autoptr(QsQmp) qmp = NULL;
    JsonObject *answer;
    gint64 port = 0;

    qs_job_enter(a->job, "files");
    if (!make_folder(a, error) || !take_files(a, error) ||
        (message = qs_talk_expect(a->lines, "prepare", QS_TALK_ANSWER_MS, a->arrive->cancellable,
                                  error)) == NULL ||
        !make_images(a, error) || !take_secret(a, message, error) || !enlist(a, error)) {
        return false;
    }
    a->launched = true;
    qs_job_enter(a->job, "listen");
    if (!qs_vm_launch(a->vm, true, a->arrive->cancellable, &a->notes, error) ||
        (qmp = qs_vm_monitor(a->vm, QS_TALK_ANSWER_MS, NULL, error)) == NULL ||
        !listen_for(a, qmp, message, &port, error)) {
        return false;
    }
    /* Without this in the record nothing can have come. */
    qs_job_enter(a->job, "prepare");
    answer = qs_talk_message("listening");
    json_object_set_int_member(answer, "port", port);
    json_object_set_boolean_member(answer, "no-sandbox", a->notes.no_sandbox);
    return qs_talk_send(a->lines, answer, a->arrive->cancellable, error);
}

/* --- until it is here, or not --- */

/* Whether nothing of it is left. */
static bool undo(Arrival *a)
{
    if (a->launched && !qs_vm_kill(a->vm, NULL)) {
        return false;
    }
    if (a->before == NULL) {
        qs_vm_delete(a->vm, NULL);
    } else {
        qs_vm_set_def(a->vm, g_steal_pointer(&a->before));
        qs_vm_save(a->vm, NULL);
        qs_secret_put_back(a->vm, a->aside);
        qs_pieces_remove(a->vm);
        qs_vm_sweep(a->vm);
    }
    if (a->folder != NULL) {
        qs_pieces_clear(a->folder);
    }
    return true;
}

/* The relay may take it later; the source should know of it now. */
static char *network_warning(Arrival *a)
{
    const QsDef *def = qs_vm_def(a->vm);
    g_autofree char *words = NULL;
    g_autofree char *hint = NULL;
    QsRelayInfo info;
    QsRelay relay;

    if (!qs_def_net_is_relay(def->net) || !qs_def_parse_relay(def->net, &relay, NULL) ||
        !qs_relay_ask(a->vm, SETTLE_MS, true, &info) ||
        !qs_relay_explain(a->vm, &relay, &info, &words, &hint)) {
        return NULL;
    }
    return g_strdup_printf("%s" QS_FAIL_HINT "%s", words, hint);
}

static bool say(Arrival *a, const char *word)
{
    return a->lines != NULL && qs_talk_send(a->lines, qs_talk_message(word), NULL, NULL);
}

static bool keep(Arrival *a, QsQmp *qmp, GError **error)
{
    g_autoptr(GError) own = NULL;
    g_autofree char *warning = NULL;
    JsonObject *message;

    qs_job_enter(a->job, "finish");
    qs_move_tidy(a->vm, qmp);
    if (!qs_vm_mark_moved(a->vm, NULL, &own)) {
        return qs_fail(error, QS_VM_ERROR_RUNS_HERE, "it is on the host it was moved to",
                       "quasar-run start takes it up there", "\"%s\" arrived; its definition: %s",
                       qs_vm_name(a->vm), own->message);
    }
    if (a->lines != NULL) {
        message = qs_talk_message("arrived");
        warning = network_warning(a);
        warning = warning != NULL ? warning : g_strdup(a->notes.scope);
        if (warning != NULL) {
            json_object_set_string_member(message, "warning", warning);
        }
        qs_talk_send(a->lines, message, NULL, NULL);
    }
    return true;
}

/* Its definition stays marked. */
static bool keep_undecided(Arrival *a, GError **error)
{
    g_autofree char *hint = g_strdup_printf(
        "when the source is known to have ended, quasar-run resolve %s", qs_vm_name(a->vm));

    return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "paused here, or it runs at the source", hint,
                   "\"%s\" was loaded whole and nobody said that it may run", qs_vm_name(a->vm));
}

static bool give_up(Arrival *a, const char *why, GError **error)
{
    bool gone = undo(a);

    /* Who gave it up knows why, and does not wait for more than this word. */
    a->told = gone && say(a, "removed") && a->abandoned;
    return qs_fail(error, QS_VM_ERROR_FAILED,
                   gone ? "at the source; nothing of it is left here"
                        : "at the source; its copy here does not end",
                   NULL, "\"%s\" did not come: %s", qs_vm_name(a->vm), why);
}

/* One look at the source's words. */
static void hear(Arrival *a, guint wait_ms)
{
    g_autoptr(GError) own = NULL;
    g_autoptr(JsonObject) message = NULL;

    if (!a->heard) {
        return;
    }
    message = qs_talk_receive(a->lines, wait_ms, a->arrive->cancellable, &own);
    if (message != NULL && g_str_equal(qs_talk_says(message), "abandon")) {
        a->abandoned = true;
    } else if (message != NULL && g_str_equal(qs_talk_says(message), "ended") && a->ended == 0) {
        a->ended = g_get_monotonic_time();
    }
    a->heard = message != NULL || g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_TIMEOUT);
}

/*
 * The session was over before it was decided; or there was none, and none can come any more.
 * @quiet: since when nothing came and nobody was there.
 */
static bool is_over(Arrival *a, const QsMoveInfo *info, gint64 began, gint64 *quiet)
{
    gint64 now = g_get_monotonic_time();
    bool waited = !a->heard || now - began > IDLE_US;

    if (info->where == QS_WHERE_PEER && g_str_equal(info->stage, "failed")) {
        return waited;
    }
    /* Not voted yet, and nobody is left to decide. */
    if (info->where == QS_WHERE_PEER && a->ended != 0) {
        return true;
    }
    if (!waited || info->received != 0 || info->where == QS_WHERE_UNDECIDED) {
        *quiet = now;
        return false;
    }
    /* Without its key QEMU lets nobody in; who came before that is heard of soon. */
    if (now - *quiet > QUIET_US) {
        qs_move_drop_key(a->vm);
    }
    return now - *quiet > QUIET_US + CLOSED_US;
}

/* QEMU is gone, and whether the VM was here before that is for the source to say. */
static bool end_alone(Arrival *a, GError **error)
{
    gint64 until = g_get_monotonic_time() + ALONE_US;

    while (a->heard && !a->abandoned && a->ended == 0 && g_get_monotonic_time() < until) {
        hear(a, LOOK_MS);
    }
    if (a->abandoned) {
        return give_up(a, "QEMU ended on the other host", error);
    }
    return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "at the source, or stopped here",
                   "when it is not at the source, quasar-run resolve lets it start here",
                   "the QEMU that \"%s\" came to has ended", qs_vm_name(a->vm));
}

/* A last word of the source's QEMU may still be on its way. */
static bool is_silent(const Arrival *a)
{
    return !a->heard || (a->ended != 0 && g_get_monotonic_time() - a->ended > CLOSED_US);
}

static bool watch(Arrival *a, GError **error)
{
    g_autoptr(QsQmp) qmp = NULL;
    gint64 began = g_get_monotonic_time(), quiet = began, sure = began;
    QsMoveInfo info = { .where = QS_WHERE_NONE };

    a->heard = a->lines != NULL;
    for (;;) {
        bool known = qs_move_look(a->vm, &qmp, &info);

        if (known) {
            qs_move_record(a->job, &info);
        }
        if (!known && !qs_vm_is_alive(a->vm)) {
            return end_alone(a, error);
        }
        if (known && info.where == QS_WHERE_HERE) {
            return keep(a, qmp, error);
        }
        if (!known || info.where != QS_WHERE_UNDECIDED || a->abandoned || !is_silent(a)) {
            sure = g_get_monotonic_time();
        } else if (g_get_monotonic_time() - sure > DOUBT_US) {
            return keep_undecided(a, error);
        }
        if (a->abandoned || (known && is_over(a, &info, began, &quiet))) {
            /* Or it would be in the way of who ends QEMU. */
            g_clear_pointer(&qmp, qs_qmp_free);
            return give_up(a, *info.reason != '\0' ? info.reason : "the source gave it up", error);
        }
        /* Its arrival is not waited for a moment longer than QEMU takes to tell. */
        qs_move_wait(qmp, LOOK_MS);
        hear(a, 1);
    }
}

/* What an earlier launcher left half made under this name goes: nothing of it ever ran. */
static bool take_name(Arrival *a, GError **error)
{
    return a->offer->only_check || !qs_pieces_pending(a->vm) || qs_vm_exists(a->vm) ||
           qs_vm_forget(a->vm, error);
}

static bool begin_job(Arrival *a, GError **error)
{
    if (a->offer->only_check) {
        return true;
    }
    a->job = qs_job_begin(a->arrive->store, "receive", a->offer->name, a->offer->def->uuid,
                          a->arrive->peer, error);
    if (a->job != NULL && a->before != NULL) {
        g_autofree char *path = qs_job_file(a->job, BEFORE);

        return qs_def_save(a->before, path, error);
    }
    return a->job != NULL;
}

/* With the lock, or another could take the name between the look and the accept. */
static bool accept_offer(Arrival *a, JsonObject *message, GError **error)
{
    if (!g_str_equal(qs_talk_says(message), "offer")) {
        return qs_lines_fail(a->lines, error, "\"offer\" was expected");
    }
    a->offer = qs_offer_unpack(message, error);
    a->vm = a->offer == NULL ? NULL : qs_vm_new(a->arrive->store, a->offer->name, error);
    if (a->vm == NULL || (!a->offer->only_check && !qs_vm_lock(a->vm, "receive", error))) {
        return false;
    }
    if (check(a, error) && take_name(a, error) && begin_job(a, error)) {
        return true;
    }
    /* The lock's folder, unless it was there for something. */
    if (!a->offer->only_check && !qs_vm_exists(a->vm) && !qs_vm_is_alive(a->vm) &&
        !qs_pieces_pending(a->vm)) {
        qs_vm_delete(a->vm, NULL);
    }
    return false;
}

/* @ret_message: NULL when the source wanted to know no more than what this host is. */
static bool hear_offer(Arrival *a, JsonObject **ret_message, GError **error)
{
    g_autofree char *theirs = NULL;
    g_autoptr(JsonObject) message = NULL;

    if (!qs_talk_send_hello(a->lines, a->arrive->version, a->arrive->cancellable, error) ||
        (theirs = qs_talk_expect_hello(a->lines, a->arrive->version, a->arrive->cancellable,
                                       error)) == NULL ||
        (message = qs_talk_receive(a->lines, QS_TALK_ANSWER_MS, a->arrive->cancellable, error)) ==
            NULL ||
        !qs_examined(a->arrive->store, a->lines, a->arrive->cancellable, &message, error)) {
        return false;
    }
    *ret_message = g_steal_pointer(&message);
    return true;
}

static bool arrive_whole(Arrival *a, GError **error)
{
    g_autoptr(JsonObject) message = NULL;
    bool ready;

    if (!hear_offer(a, &message, error)) {
        return false;
    }
    if (message == NULL) {
        return true;
    }
    if (!accept_offer(a, message, error)) {
        return false;
    }
    ready = qs_talk_send(a->lines, qs_talk_message("accept"), a->arrive->cancellable, error);
    if (a->offer->only_check) {
        return ready;
    }
    if (!ready || !prepare(a, error)) {
        undo(a);
        return false;
    }
    return watch(a, error);
}

bool qs_arrive(const QsArrive *arrive, QsLines *lines, bool *ret_told, GError **error)
{
    Arrival a = { .arrive = arrive, .lines = lines };
    g_autoptr(GError) own = NULL;
    bool done = arrive_whole(&a, &own);

    if (!done) {
        *ret_told = qs_talk_refuse(lines, own) || a.told;
    }
    qs_job_end(a.job, own, "it is here");
    if (!done) {
        g_propagate_error(error, g_steal_pointer(&own));
    }
    qs_job_free(a.job);
    qs_lines_free(lines);
    qs_vm_free(a.vm);
    qs_offer_free(a.offer);
    qs_def_free(a.before);
    g_free(a.folder);
    g_free(a.aside);
    qs_vm_notes_clear(&a.notes);
    return done;
}

/* --- for a receiver that died --- */

static bool fail_gone(Arrival *a, GError **error)
{
    return qs_fail(error, QS_VM_ERROR_FAILED, "at the source; nothing of it is left here", NULL,
                   "\"%s\" did not come: its launcher here ended", qs_vm_name(a->vm));
}

/* Whether its source may have been told where to send it. */
static bool was_announced(const QsJob *job)
{
    for (guint i = 0; i < job->n_phases; i++) {
        if (g_str_equal(job->phases[i].word, "prepare")) {
            return true;
        }
    }
    return false;
}

static bool take_up(Arrival *a, GError **error)
{
    const QsDef *def = qs_vm_def(a->vm);

    /* Nothing had a name yet, or only the name it had before. */
    if (qs_pieces_pending(a->vm) || def == NULL) {
        qs_pieces_remove(a->vm);
        if (!qs_vm_exists(a->vm)) {
            qs_vm_delete(a->vm, NULL);
        }
        return fail_gone(a, error);
    }
    if (g_strcmp0(def->moved, QS_DEF_ARRIVING) != 0) {
        return def->moved == NULL || fail_gone(a, error);
    }
    a->launched = true;
    if (!was_announced(a->job)) {
        return give_up(a, "its launcher here ended", error);
    }
    return watch(a, error);
}

bool qs_arrive_resume(const QsArrive *arrive, QsVm *vm, QsJob *job, GError **error)
{
    g_autofree char *path = qs_job_file(job, BEFORE);
    Arrival a = { .arrive = arrive, .vm = vm, .job = job, .folder = qs_job_noted(job, FOLDER) };
    bool done;

    a.before = qs_def_load(path, NULL);
    done = take_up(&a, error);
    qs_def_free(a.before);
    g_free(a.folder);
    return done;
}
