/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The definition is marked as moved before QEMU is told to begin, and the mark goes when QEMU says
 * that the move failed: a launcher that dies in between leaves a VM that goes on where its QEMUs
 * decided, and that nobody starts here a second time. What the other launcher says changes nothing
 * about where the VM is; that is asked from the QEMU here, which knows or says that it does not.
 * Only of a QEMU that has ended here does the other side know more.
 */
#include "move/depart.h"

#include "move/image.h"
#include "move/peer.h"
#include "move/remote.h"
#include "move/talk.h"
#include "move/tunnel.h"
#include "vm/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_MS 250
/* Paused at both ends while neither knows: it is over when the connection is back. */
#define DOUBT_US (G_GINT64_CONSTANT(30) * G_USEC_PER_SEC)
/* The same in a tunnel, which ends with us: nobody else would connect the two again. */
#define DOUBT_TUNNEL_US (G_GINT64_CONSTANT(600) * G_USEC_PER_SEC)
/* For the port of the other QEMU to answer. */
#define REACH_S 5u
/* For the two QEMUs to meet. */
#define MEET_US (G_GINT64_CONSTANT(30) * G_USEC_PER_SEC)
/* For a QEMU here that does not answer. */
#define SILENT_US (G_GINT64_CONSTANT(300) * G_USEC_PER_SEC)
#define FORCED_DOWNTIME_MS 2000000
/* The status by which ssh says that it failed itself. */
#define SSH_FAILED 255

typedef enum End { END_DECIDED, END_DIED, END_UNKNOWN } End;

typedef struct Departure {
    const QsDepart *depart;
    QsRemote *remote;
    QsLines *lines; /* of the remote; NULL when its launcher is another's */
    QsOffer *offer;
    char *secret;  /* of its relay; NULL: none */
    char *address; /* in numbers: where the machine itself goes; NULL: through the tunnel */
    QsTunnel *tunnel;
    gint64 began;
    bool agreed, cancelled, timed_out, unreached;
    bool resumed; /* QEMU was told by a launcher that has died, or never was */
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

QsOffer *qs_depart_offer(const QsVm *vm, QsDef *def, GError **error)
{
    g_autoptr(QsOffer) offer = qs_offer_new(qs_vm_name(vm), def);

    /* This host's own affair, and unknown to an older launcher. */
    qs_def_set(def, "scope", "", NULL);
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

static QsOffer *make_offer(const QsDepart *depart, GError **error)
{
    QsDef *def = qs_vm_live_def(depart->vm);
    QsOffer *offer = NULL;

    if (def == NULL) {
        qs_fail(error, QS_VM_ERROR_REFUSED, "it runs here", NULL,
                "what \"%s\" was started with cannot be read", qs_vm_name(depart->vm));
        return NULL;
    }
    offer = qs_depart_offer(depart->vm, def, error);
    if (offer != NULL) {
        offer->only_check = depart->only_check;
    }
    return offer;
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

    qs_job_enter(depart->job, "agree");
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
    answer = qs_talk_expect(d->lines, "accept", QS_TALK_LAUNCH_MS, depart->cancellable, error);
    return answer != NULL;
}

static const char *listen_scope(const char *address)
{
    return address == NULL || g_str_equal(address, "::1") || g_str_has_prefix(address, "127.")
               ? "loopback"
           : strchr(address, ':') != NULL ? "ipv6"
                                          : "ipv4";
}

static bool ask_to_listen(Departure *d, const char *key, const char *stream, guint64 *ret_port,
                          GError **error)
{
    JsonObject *message = qs_talk_message("prepare");
    g_autoptr(JsonObject) answer = NULL;

    qs_job_enter(d->depart->job, "listen");
    json_object_set_string_member(message, "key", key);
    json_object_set_string_member(message, "listen", listen_scope(d->address));
    if (d->depart->way != QS_WAY_DIRECT) {
        json_object_set_string_member(message, "stream", stream);
    }
    json_object_set_int_member(message, "lanes", d->depart->limits.lanes);
    if (d->secret != NULL) {
        json_object_set_string_member(message, "relay-secret", d->secret);
    }
    if (!qs_talk_send(d->lines, message, d->depart->cancellable, error)) {
        return false;
    }
    answer =
        qs_talk_expect(d->lines, "listening", QS_TALK_LAUNCH_MS, d->depart->cancellable, error);
    if (answer == NULL) {
        return false;
    }
    return (qs_json_get_u64(answer, "port", ret_port, NULL) && *ret_port >= 1 &&
            *ret_port <= 65535) ||
           qs_lines_fail(d->lines, error, "it names no port");
}

/* --- the way of the machine itself --- */

static bool is_reached(Departure *d, guint64 port)
{
    g_autoptr(GError) own = NULL;
    g_autoptr(GSocketConnection) tried = NULL;
    g_autofree char *words = NULL;

    if (d->depart->way == QS_WAY_DIRECT) {
        return true;
    }
    if (d->address == NULL) {
        return false;
    }
    tried = qs_remote_connect(d->address, (guint16)port, REACH_S, d->depart->cancellable, &own);
    if (tried == NULL && !g_cancellable_is_cancelled(d->depart->cancellable)) {
        words = g_strdup_printf("%s; the machine goes inside the connection to %s", own->message,
                                d->depart->host);
        d->depart->say(words, d->depart->listener);
    }
    return tried != NULL;
}

/* Where QEMU is to dial. */
static char *find_way(Departure *d, guint64 port, const char *stream, GError **error)
{
    const QsDepart *depart = d->depart;
    g_autofree char *word = g_strdup_printf("%s/%s", d->offer->name, stream);
    const char *words[] = { "--stream", word, NULL };
    g_auto(GStrv) argv = NULL;

    if (is_reached(d, port)) {
        bool brackets = strchr(d->address, ':') != NULL;

        return g_strdup_printf("quasar:%s%s%s:%" G_GUINT64_FORMAT, brackets ? "[" : "", d->address,
                               brackets ? "]" : "", port);
    }
    if (g_cancellable_is_cancelled(depart->cancellable)) {
        g_set_error_literal(error, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED, "interrupted");
        return NULL;
    }
    argv = qs_remote_argv(depart->rsh, depart->host, words, error);
    d->tunnel = argv == NULL ? NULL : qs_tunnel_open(qs_vm_run_folder(depart->vm), argv, error);
    return d->tunnel == NULL ? NULL : g_strdup(qs_tunnel_uri(d->tunnel));
}

/* --- the move --- */

/* False, and @ret_begun: it may be under way all the same, since QEMU did not answer. */
static bool begin(Departure *d, QsQmp *qmp, const char *uri, const char *key, bool *ret_begun,
                  GError **error)
{
    g_autoptr(GError) own = NULL;
    JsonObject *where;

    if (!qs_move_secure(d->depart->vm, qmp, key, false, error) ||
        !qs_move_limit(qmp, &d->depart->limits, error) ||
        !qs_vm_mark_moved(d->depart->vm, d->depart->host, error)) {
        return false;
    }
    where = json_object_new();
    json_object_set_string_member(where, "uri", uri);
    *ret_begun = qs_move_execute(qmp, "migrate", where, &own) ||
                 !(g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_COMMAND) ||
                   g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_UNKNOWN));
    if (own != NULL) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    return true;
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

/* Until QEMU says how it ended. */
static End follow(Departure *d, QsQmp **qmp, QsMoveInfo *ret_info)
{
    gint64 sure = g_get_monotonic_time(), heard = sure;

    for (;; qs_move_wait(*qmp, LOOK_MS)) {
        bool known = qs_move_look(d->depart->vm, qmp, ret_info);
        gint64 now = g_get_monotonic_time();

        if (!known) {
            if (!qs_vm_is_alive(d->depart->vm)) {
                return END_DIED;
            }
            if (now - heard > SILENT_US) {
                return END_UNKNOWN;
            }
            continue;
        }
        heard = now;
        qs_move_record(d->depart->job, ret_info);
        d->depart->progress(ret_info, d->depart->opaque);
        if (g_str_equal(ret_info->stage, "done") || g_str_equal(ret_info->stage, "failed")) {
            return END_DECIDED;
        }
        /* It was told to begin, and knows of no session. */
        if (ret_info->where == QS_WHERE_NONE && (d->resumed || now - d->began > MEET_US)) {
            return END_DECIDED;
        }
        sure = ret_info->where == QS_WHERE_UNDECIDED ? sure : now;
        if (now - sure > (d->tunnel != NULL && !d->cancelled ? DOUBT_TUNNEL_US : DOUBT_US)) {
            return END_UNKNOWN;
        }
        steer(d, *qmp, ret_info);
    }
}

/* --- the end --- */

static bool fail_uncertain(const Departure *d, GError **error)
{
    g_autofree char *hint = g_strdup_printf(
        "quasar-run resume %s asks again; when one side is known to be lost, quasar-run resolve %s "
        "decides",
        d->offer->name, d->offer->name);

    return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "here, or on the other host; nothing was ended",
                   hint, "it is not known whether \"%s\" arrived at %s", d->offer->name,
                   d->depart->host);
}

static char *why_not(const Departure *d, const char *reason)
{
    g_autofree char *trouble = qs_tunnel_trouble(d->tunnel);
    const char *words = d->resumed && *reason == '\0' ? "its launcher ended before it began"
                        : d->timed_out                ? "it took longer than --timeout allows"
                        : d->unreached                ? "the two QEMUs do not reach each other"
                        : *reason != '\0'             ? reason
                                                      : "QEMU gives no reason";

    return trouble == NULL
               ? g_strdup(words)
               : g_strdup_printf("%s (inside %s, which %s)", words, d->depart->rsh, trouble);
}

/* What to do about it, when that can be known. */
static const char *advise(const Departure *d)
{
    return d->unreached && d->tunnel == NULL
               ? "--data-address tells where, --tunnel always does without"
               : NULL;
}

/* QEMU has said that it holds the VM, and then nobody else will. */
static bool stay(Departure *d, QsQmp *qmp, const char *reason, GError **error)
{
    const QsDepart *depart = d->depart;
    g_autoptr(GError) own = NULL;
    g_autoptr(JsonObject) answer = NULL;
    g_autofree char *state = NULL;
    g_autofree char *hint = g_strdup(advise(d));
    g_autofree char *why = why_not(d, reason);

    qs_move_tidy(depart->vm, qmp);
    if (!qs_vm_mark_moved(depart->vm, NULL, &own)) {
        g_free(hint);
        hint = g_strdup_printf("quasar-run set %s moved= before its next start", d->offer->name);
    }
    if (d->lines != NULL) {
        qs_talk_send(d->lines, qs_talk_message("abandon"), NULL, NULL);
        answer = qs_talk_receive(d->lines, QS_TALK_ANSWER_MS, NULL, NULL);
    } else {
        qs_peer_resume(&(QsPeer){ depart->rsh, depart->host, NULL }, d->offer->name);
    }
    qs_vm_tell(depart->vm, qmp, &state);
    if (d->cancelled) {
        return qs_fail(error, QS_VM_ERROR_CANCELLED, state, hint,
                       "the move of \"%s\" was given up on request", d->offer->name);
    }
    return qs_fail(error, QS_VM_ERROR_RUNS_HERE, state, hint, "\"%s\" was not moved: %s",
                   d->offer->name, why);
}

/* Images are files that the VM leaves behind; a device is its owner's. */
static bool remove_all(Departure *d, GError **error)
{
    for (guint i = 0; i < d->offer->n_disks; i++) {
        if (g_file_test(d->offer->def->image[i], G_FILE_TEST_IS_REGULAR)) {
            g_unlink(d->offer->def->image[i]);
        }
    }
    return qs_vm_delete(d->depart->vm, error);
}

static void pass_warning(const QsDepart *depart, JsonObject *answer)
{
    const char *words = qs_json_get_string(answer, "warning", NULL);
    g_autofree char *shown = words == NULL ? NULL : qs_talk_clean(words);

    if (shown != NULL) {
        depart->warn(shown, depart->opaque);
    }
}

/* Without a talk: the launcher there may have died as well, and then another finishes its work. */
static QsPeerSays ask_peer(const Departure *d, char **ret_words)
{
    const QsPeer peer = { d->depart->rsh, d->depart->host, NULL };
    QsPeerSays says = qs_peer_ask(&peer, d->offer->name, d->offer->def->uuid, ret_words);

    if (says == QS_PEER_COMING || says == QS_PEER_ARRIVED || says == QS_PEER_UNKNOWN) {
        g_free(*ret_words);
        qs_peer_resume(&peer, d->offer->name);
        says = qs_peer_ask(&peer, d->offer->name, d->offer->def->uuid, ret_words);
    }
    return says;
}

/* Whether the other launcher keeps it; if not, @ret_words tells what it said. */
static bool is_kept(Departure *d, char **ret_words)
{
    g_autoptr(GError) own = NULL;
    g_autoptr(JsonObject) answer = NULL;
    g_autofree char *hint = NULL;

    if (d->lines == NULL) {
        return qs_peer_holds(ask_peer(d, ret_words));
    }
    answer = qs_talk_receive(d->lines, QS_TALK_ANSWER_MS, NULL, &own);
    if (answer != NULL && g_str_equal(qs_talk_says(answer), "arrived")) {
        pass_warning(d->depart, answer);
        return true;
    }
    qs_fail_split(own != NULL ? own->message : "it says something else", ret_words, &hint);
    return false;
}

static bool leave(Departure *d, GError **error)
{
    const QsDepart *depart = d->depart;
    g_autofree char *what = NULL;
    g_autofree char *hint = NULL;
    bool kept;

    qs_job_enter(depart->job, "finish");
    kept = is_kept(d, &what);
    if (!qs_vm_kill(depart->vm, error)) {
        return false;
    }
    if (kept) {
        if (depart->remove) {
            qs_job_enter(depart->job, "remove");
        }
        return !depart->remove || remove_all(d, error);
    }
    hint = g_strdup_printf("quasar-run start %s there takes it up; nothing was removed here",
                           d->offer->name);
    return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "on the other host, with its QEMU", hint,
                   "\"%s\" moved to %s, whose launcher did not say that it keeps it (%s)",
                   d->offer->name, depart->host, what);
}

/* Of a QEMU that has ended here the other side knows more. */
static QsPeerSays ask_about_the_dead(Departure *d)
{
    g_autoptr(JsonObject) answer = NULL;
    g_autofree char *what = NULL;
    const char *says;

    if (d->lines == NULL) {
        return ask_peer(d, &what);
    }
    qs_talk_send(d->lines, qs_talk_message("ended"), NULL, NULL);
    answer = qs_talk_receive(d->lines, QS_TALK_ANSWER_MS, NULL, NULL);
    says = answer == NULL ? "" : qs_talk_says(answer);
    return g_str_equal(says, "arrived")   ? QS_PEER_HOLDS
           : g_str_equal(says, "removed") ? QS_PEER_LACKS
                                          : QS_PEER_UNKNOWN;
}

/* It cannot run here any more; did it get there before? */
static bool die(Departure *d, GError **error)
{
    const QsDepart *depart = d->depart;
    QsPeerSays says = ask_about_the_dead(d);
    g_autoptr(GError) own = NULL;

    if (qs_peer_holds(says)) {
        qs_vm_sweep(depart->vm);
        return !d->resumed || !depart->remove || remove_all(d, error);
    }
    if (says != QS_PEER_LACKS) {
        return fail_uncertain(d, error);
    }
    qs_vm_sweep(depart->vm);
    qs_vm_mark_moved(depart->vm, NULL, &own);
    return qs_fail(error, QS_VM_ERROR_FAILED, "stopped here, and not on the other host",
                   own == NULL ? "quasar-run start starts it anew"
                               : "quasar-run set moved= lets it start here",
                   "\"%s\" was not moved: its QEMU ended", d->offer->name);
}

/* From the word to begin on; takes @qmp. */
static bool carry(Departure *d, QsQmp *qmp, GError **error)
{
    g_autoptr(QsQmp) own = qmp;
    QsMoveInfo info = { .where = QS_WHERE_NONE, .stage = "prepare" };

    switch (follow(d, &own, &info)) {
    case END_DIED: return die(d, error);
    case END_UNKNOWN: return fail_uncertain(d, error);
    case END_DECIDED: break;
    }
    if (info.where == QS_WHERE_HERE || info.where == QS_WHERE_NONE) {
        return stay(d, own, info.reason, error);
    }
    /* Or it would be in the way of who ends QEMU. */
    g_clear_pointer(&own, qs_qmp_free);
    return info.where == QS_WHERE_PEER ? leave(d, error) : fail_uncertain(d, error);
}

static bool move(Departure *d, GError **error)
{
    g_autofree char *key = qs_move_key_new(error);
    g_autofree char *stream = qs_move_key_new(error);
    g_autofree char *uri = NULL;
    g_autoptr(QsQmp) qmp = NULL;
    g_autoptr(GError) own = NULL;
    guint64 port = 0;
    bool begun = false;

    qs_job_enter(d->depart->job, "files");
    if (key == NULL || stream == NULL || !send_files(d, error) ||
        !ask_to_listen(d, key, stream, &port, error) ||
        (uri = find_way(d, port, stream, error)) == NULL ||
        (qmp = qs_vm_monitor(d->depart->vm, QS_TALK_ANSWER_MS, NULL, error)) == NULL) {
        return false;
    }
    d->began = g_get_monotonic_time();
    if (!begin(d, qmp, uri, key, &begun, &own) && !begun) {
        return stay(d, qmp, own->message, error);
    }
    return carry(d, g_steal_pointer(&qmp), error);
}

/* What happened before anything was touched, in the words of this end. */
static bool fail_early(const Departure *d, GError *why, GError **error)
{
    g_autoptr(GError) own = why;
    bool cancelled = g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED);
    bool lost = !d->agreed && g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_LOST);
    g_autofree char *what = NULL;
    g_autofree char *hint = NULL;
    int status = 0;

    if (own->domain == QS_VM_ERROR && strstr(own->message, QS_FAIL_STATE) != NULL) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    if (lost && qs_remote_has_ended(d->remote, &status) && status == SSH_FAILED) {
        hint = g_strdup_printf("it says why itself; %s %s true must work", d->depart->rsh,
                               d->depart->host);
        what = g_strdup_printf("%s did not get to %s", d->depart->rsh, d->depart->host);
    } else if (lost) {
        hint = g_strdup("quasar-run must be on the PATH of that host's shell");
        what = g_strdup(own->message);
    } else {
        qs_fail_split(own->message, &what, &hint);
    }
    return qs_fail(error,
                   own->domain == QS_VM_ERROR ? own->code
                   : cancelled                ? QS_VM_ERROR_CANCELLED
                                              : QS_VM_ERROR_FAILED,
                   "it is here as it was", hint, "\"%s\" was not moved: %s",
                   qs_vm_name(d->depart->vm), what);
}

/* All that can be known before the other host is asked. */
static bool look_first(Departure *d, GError **error)
{
    const QsDepart *depart = d->depart;
    g_autoptr(GError) own = NULL;

    d->offer = make_offer(depart, error);
    if (d->offer == NULL) {
        return false;
    }
    /* Without one here, the other host may have its own. */
    if (qs_def_net_is_relay(d->offer->def->net)) {
        d->secret = qs_secret_find(depart->vm, d->offer->def, NULL);
    }
    d->offer->secret = d->secret != NULL;
    if (depart->way == QS_WAY_TUNNEL) {
        return true;
    }
    d->address = qs_remote_address(depart->host, depart->data_address, depart->cancellable, &own);
    /* A name that ssh alone knows needs no address. */
    if (d->address == NULL && (depart->way == QS_WAY_DIRECT || depart->data_address != NULL)) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    return true;
}

bool qs_depart(const QsDepart *depart, GError **error)
{
    Departure d = { .depart = depart };
    g_autoptr(GError) own = NULL;
    bool done;

    d.agreed = look_first(&d, &own) && agree(&d, &own);
    done = d.agreed && (depart->only_check || move(&d, &own));
    done = done || fail_early(&d, g_steal_pointer(&own), error);
    qs_tunnel_close(d.tunnel);
    qs_remote_close(d.remote);
    qs_offer_free(d.offer);
    g_free(d.secret);
    g_free(d.address);
    return done;
}

/* --- after a launcher that died --- */

/* As much of an offer as the end of a move needs. */
static QsOffer *recall_offer(const QsDepart *depart)
{
    g_autofree char *text = qs_def_text(qs_vm_def(depart->vm));
    QsDef *live = qs_vm_live_def(depart->vm);
    QsDef *def = live != NULL ? live : qs_def_parse(text, NULL);
    QsOffer *offer = qs_offer_new(qs_vm_name(depart->vm), def);

    offer->n_disks = def->image == NULL ? 0 : g_strv_length(def->image);
    return offer;
}

static bool take_up(Departure *d, GError **error)
{
    const QsDepart *depart = d->depart;

    if (qs_vm_is_alive(depart->vm)) {
        return carry(d, NULL, error);
    }
    /* QEMU is told after the mark alone. */
    return qs_vm_def(depart->vm)->moved != NULL
               ? die(d, error)
               : qs_fail(error, QS_VM_ERROR_FAILED, "stopped here",
                         "quasar-run start starts it anew",
                         "\"%s\" was not moved: its launcher ended before it began, and its QEMU",
                         d->offer->name);
}

bool qs_depart_resume(const QsDepart *depart, GError **error)
{
    Departure d = { .depart = depart,
                    .offer = recall_offer(depart),
                    .began = g_get_monotonic_time(),
                    .resumed = true };
    bool done = take_up(&d, error);

    qs_offer_free(d.offer);
    return done;
}
