/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The definition is marked as moved before QEMU is told to begin, and the mark goes when QEMU says
 * that the move failed: a launcher that dies in between leaves a VM that goes on where its QEMUs
 * decided, and that nobody starts here a second time. What the other launcher says changes nothing
 * about where the VM is; that is asked from the QEMU here, which knows or says that it does not.
 */
#include "move/depart.h"

#include "move/image.h"
#include "move/remote.h"
#include "move/talk.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_MS 250
/* Paused at both ends while neither knows: it is over when the connection is back. */
#define DOUBT_US (G_GINT64_CONSTANT(30) * G_USEC_PER_SEC)
/* For the two QEMUs to meet. */
#define MEET_US (G_GINT64_CONSTANT(30) * G_USEC_PER_SEC)
#define FORCED_DOWNTIME_MS 2000000

typedef struct Departure {
    const QsDepart *depart;
    QsRemote *remote;
    QsLines *lines; /* of the remote */
    QsOffer *offer;
    gint64 began;
    bool cancelled, timed_out, unreached;
} Departure;

/* --- the offer --- */

static bool add_file(QsOffer *offer, const char *key, const char *path, GError **error)
{
    struct stat info;

    if (path == NULL) {
        return true;
    }
    if (stat(path, &info) < 0) {
        return qs_fail_errno(error, errno, "%s", path);
    }
    offer->files[offer->n_files++] = (QsTalkFile){ key, (guint64)info.st_size };
    return true;
}

static QsOffer *make_offer(const QsDepart *depart, GError **error)
{
    QsDef *def = qs_vm_live_def(depart->vm);
    g_autoptr(QsOffer) offer = def == NULL ? NULL : qs_offer_new(qs_vm_name(depart->vm), def);

    if (offer == NULL) {
        qs_fail(error, QS_VM_ERROR_REFUSED, "it runs here", NULL,
                "what \"%s\" was started with cannot be read", qs_vm_name(depart->vm));
        return NULL;
    }
    offer->only_check = depart->only_check;
    for (guint i = 0; def->image != NULL && def->image[i] != NULL; i++) {
        QsTalkDisk *disk = &offer->disks[offer->n_disks++];

        if (!qs_image_measure(def->image[i], def->image_format[i], &disk->size, &disk->allocated,
                              error)) {
            return NULL;
        }
    }
    return add_file(offer, "kernel", def->kernel, error) &&
                   add_file(offer, "initrd", def->initrd, error) &&
                   add_file(offer, "iso", def->iso, error)
               ? g_steal_pointer(&offer)
               : NULL;
}

static bool send_pieces(Departure *d, int fd, guint64 left, GError **error)
{
    g_autofree guint8 *piece = g_malloc(QS_TALK_PIECE);

    while (left > 0) {
        ssize_t n = read(fd, piece, MIN(left, QS_TALK_PIECE));
        g_autofree char *text = NULL;
        JsonObject *message;

        if (n <= 0) {
            return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL,
                           "a file of \"%s\" is shorter than it was", d->offer->name);
        }
        text = g_base64_encode(piece, (gsize)n);
        message = qs_talk_message("file");
        json_object_set_string_member(message, "data", text);
        if (!qs_talk_send(d->lines, message, d->depart->cancellable, error)) {
            return false;
        }
        left -= (guint64)n;
    }
    return true;
}

static bool send_files(Departure *d, GError **error)
{
    for (guint i = 0; i < d->offer->n_files; i++) {
        g_autofree char *path = qs_def_get(d->offer->def, d->offer->files[i].key);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        bool done;

        if (fd < 0) {
            return qs_fail_errno(error, errno, "cannot open %s", path);
        }
        done = send_pieces(d, fd, d->offer->files[i].size, error);
        close(fd);
        if (!done) {
            return false;
        }
    }
    return true;
}

/* --- agreeing --- */

static bool agree(Departure *d, GError **error)
{
    const QsDepart *depart = d->depart;
    g_autofree char *theirs = NULL;
    g_autoptr(JsonObject) answer = NULL;

    d->remote = qs_remote_open(depart->rsh, depart->host, depart->net, error);
    if (d->remote == NULL) {
        return false;
    }
    d->lines = qs_remote_lines(d->remote);
    if (!qs_talk_send_hello(d->lines, depart->version, depart->cancellable, error) ||
        (theirs = qs_talk_expect_hello(d->lines, depart->version, depart->cancellable, error)) ==
            NULL ||
        !qs_talk_send(d->lines, qs_offer_pack(d->offer), depart->cancellable, error)) {
        return false;
    }
    answer = qs_talk_expect(d->lines, "accept", depart->cancellable, error);
    return answer != NULL;
}

static bool ask_to_listen(Departure *d, const char *address, const char *key, guint64 *ret_port,
                          GError **error)
{
    JsonObject *message = qs_talk_message("prepare");
    g_autoptr(JsonObject) answer = NULL;
    bool loopback = g_str_equal(address, "::1") || g_str_has_prefix(address, "127.");

    json_object_set_string_member(message, "key", key);
    json_object_set_string_member(message, "listen",
                                  loopback                       ? "loopback"
                                  : strchr(address, ':') != NULL ? "ipv6"
                                                                 : "ipv4");
    json_object_set_int_member(message, "lanes", d->depart->limits.lanes);
    if (!qs_talk_send(d->lines, message, d->depart->cancellable, error)) {
        return false;
    }
    answer = qs_talk_expect(d->lines, "listening", d->depart->cancellable, error);
    if (answer == NULL) {
        return false;
    }
    return (qs_json_get_u64(answer, "port", ret_port, NULL) && *ret_port >= 1 &&
            *ret_port <= 65535) ||
           qs_lines_fail(d->lines, error, "it names no port");
}

/* --- the move --- */

static bool begin(Departure *d, QsQmp *qmp, const char *address, guint64 port, const char *key,
                  GError **error)
{
    bool brackets = strchr(address, ':') != NULL;
    g_autofree char *uri = g_strdup_printf("quasar:%s%s%s:%" G_GUINT64_FORMAT, brackets ? "[" : "",
                                           address, brackets ? "]" : "", port);
    JsonObject *where = json_object_new();

    json_object_set_string_member(where, "uri", uri);
    if (!qs_move_secure(d->depart->vm, qmp, key, false, error) ||
        !qs_move_limit(qmp, &d->depart->limits, error) ||
        !qs_def_set(qs_vm_def(d->depart->vm), "moved", d->depart->host, error) ||
        !qs_vm_save(d->depart->vm, error)) {
        json_object_unref(where);
        return false;
    }
    return qs_move_execute(qmp, "migrate", where, error);
}

static void force(QsQmp *qmp)
{
    JsonObject *parameters = json_object_new();

    json_object_set_int_member(parameters, "downtime-limit", FORCED_DOWNTIME_MS);
    qs_move_execute(qmp, "migrate-set-parameters", parameters, NULL);
}

/* What was asked for by the person, or by the clock. */
static void steer(Departure *d, QsQmp *qmp, const QsMoveInfo *info)
{
    const QsDepart *depart = d->depart;
    gint64 spent = g_get_monotonic_time() - d->began;

    if (!d->cancelled && g_cancellable_is_cancelled(depart->cancellable)) {
        d->cancelled = true;
        qs_move_execute(qmp, "migrate_cancel", NULL, NULL);
    }
    if (!d->timed_out && depart->timeout_s != 0 && depart->on_timeout != QS_TIMEOUT_WAIT &&
        spent > depart->timeout_s * G_USEC_PER_SEC) {
        d->timed_out = true;
        if (depart->on_timeout == QS_TIMEOUT_FORCE) {
            force(qmp);
        } else {
            qs_move_execute(qmp, "migrate_cancel", NULL, NULL);
        }
    }
    if (!d->unreached && spent > MEET_US && g_str_equal(info->stage, "prepare")) {
        d->unreached = true;
        qs_move_execute(qmp, "migrate_cancel", NULL, NULL);
    }
}

/* Until QEMU says how it ended. False: it ended itself, or nothing can be known. */
static bool follow(Departure *d, QsQmp *qmp, QsMoveInfo *ret_info)
{
    static const char *const names[] = { "QUASAR_STAGE", NULL };
    gint64 sure = g_get_monotonic_time();

    for (;;) {
        g_autoptr(QsQmpEvent) event =
            qs_qmp_wait_event(qmp, names, qs_qmp_deadline(LOOK_MS), NULL, NULL);
        gint64 now = g_get_monotonic_time();

        if (!qs_move_query(qmp, ret_info, NULL)) {
            return false;
        }
        d->depart->progress(ret_info, d->depart->opaque);
        if (g_str_equal(ret_info->stage, "done") || g_str_equal(ret_info->stage, "failed")) {
            return true;
        }
        sure = ret_info->where == QS_WHERE_UNDECIDED ? sure : now;
        if (now - sure > DOUBT_US) {
            return false;
        }
        steer(d, qmp, ret_info);
    }
}

/* --- the end --- */

static bool fail_uncertain(const Departure *d, GError **error)
{
    return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "paused here, or on the other host",
                   "look at both hosts; when one is known to be lost, quasar-resolve in the "
                   "monitor of the other's QEMU decides",
                   "it is not known whether \"%s\" arrived at %s", d->offer->name, d->depart->host);
}

static bool stay(Departure *d, QsQmp *qmp, const char *reason, GError **error)
{
    const QsDepart *depart = d->depart;
    g_autoptr(JsonObject) answer = NULL;

    qs_move_tidy(depart->vm, qmp);
    qs_talk_send(d->lines, qs_talk_message("abandon"), NULL, NULL);
    answer = qs_talk_receive(d->lines, QS_TALK_ANSWER_MS, NULL, NULL);
    if (!qs_def_set(qs_vm_def(depart->vm), "moved", "", error) || !qs_vm_save(depart->vm, error)) {
        return false;
    }
    if (d->cancelled) {
        return qs_fail(error, QS_VM_ERROR_CANCELLED, "it runs here", NULL,
                       "the move of \"%s\" was given up on request", d->offer->name);
    }
    return qs_fail(error, QS_VM_ERROR_RUNS_HERE, "it runs here", NULL, "\"%s\" was not moved: %s",
                   d->offer->name,
                   d->timed_out ? "it took longer than --timeout allows"
                   : d->unreached
                       ? "the two QEMUs do not reach each other; --data-address tells where"
                   : *reason != '\0' ? reason
                                     : "QEMU gives no reason");
}

static bool leave(Departure *d, GError **error)
{
    const QsDepart *depart = d->depart;
    g_autoptr(JsonObject) answer = qs_talk_receive(d->lines, QS_TALK_ANSWER_MS, NULL, NULL);
    bool kept = answer != NULL && g_str_equal(qs_talk_says(answer), "arrived");

    if (!qs_vm_kill(depart->vm, error)) {
        return false;
    }
    if (!kept) {
        return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "on the other host, with its QEMU",
                       "look there with quasar-run show; nothing was removed here",
                       "\"%s\" moved to %s, whose launcher did not say that it keeps it",
                       d->offer->name, depart->host);
    }
    if (!depart->remove) {
        return true;
    }
    for (guint i = 0; i < d->offer->n_disks; i++) {
        g_unlink(d->offer->def->image[i]);
    }
    return qs_vm_delete(depart->vm, error);
}

static bool move(Departure *d, GError **error)
{
    g_autofree char *address =
        qs_remote_address(d->depart->host, d->depart->data_address, d->depart->cancellable, error);
    g_autofree char *key = address == NULL ? NULL : qs_move_key_new(error);
    g_autoptr(QsQmp) qmp = NULL;
    g_autoptr(GError) own = NULL;
    QsMoveInfo info = { .where = QS_WHERE_NONE };
    guint64 port = 0;

    if (key == NULL || !send_files(d, error) || !ask_to_listen(d, address, key, &port, error) ||
        (qmp = qs_vm_monitor(d->depart->vm, QS_TALK_ANSWER_MS, NULL, error)) == NULL) {
        return false;
    }
    d->began = g_get_monotonic_time();
    if (!begin(d, qmp, address, port, key, &own)) {
        return stay(d, qmp, own->message, error);
    }
    if (!follow(d, qmp, &info)) {
        return fail_uncertain(d, error);
    }
    g_clear_pointer(&qmp, qs_qmp_free);
    if (info.where == QS_WHERE_PEER) {
        return leave(d, error);
    }
    qmp = qs_vm_monitor(d->depart->vm, QS_TALK_ANSWER_MS, NULL, error);
    return qmp != NULL && stay(d, qmp, info.reason, error);
}

/* What happened before anything was touched, in the words of this end. */
static bool fail_early(const Departure *d, GError *why, GError **error)
{
    g_autoptr(GError) own = why;
    bool cancelled = g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED);

    if (own->domain == QS_VM_ERROR) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    return qs_fail(error, cancelled ? QS_VM_ERROR_CANCELLED : QS_VM_ERROR_FAILED,
                   "it is here as it was",
                   cancelled ? NULL : "quasar-run must be on the PATH of that host's shell",
                   "\"%s\" was not moved: %s", qs_vm_name(d->depart->vm), own->message);
}

bool qs_depart(const QsDepart *depart, GError **error)
{
    Departure d = { .depart = depart, .offer = make_offer(depart, error) };
    g_autoptr(GError) own = NULL;
    bool done;

    if (d.offer == NULL) {
        return false;
    }
    done = agree(&d, &own) && (depart->only_check || move(&d, &own));
    qs_remote_close(d.remote);
    qs_offer_free(d.offer);
    return done || fail_early(&d, g_steal_pointer(&own), error);
}
