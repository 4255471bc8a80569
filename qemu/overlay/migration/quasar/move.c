/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The state of the move, its events, queries and the guard of 'cont'. */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-quasar.h"
#include "qapi/qapi-events-quasar.h"
#include "block/aio.h"
#include "migration/quasar.h"
#include "quasar/peer.h"
#include "system/runstate.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "disk-hello.h"
#include "file.h"
#include "move.h"
#include "settings.h"
#include "verify.h"

/* What the session before may take to say its last word. */
#define FAREWELL_NS (10 * NANOSECONDS_PER_SECOND)

/* How long a process that ends tries to say what the other side waits for,
 * and what it need not know. */
#define LAST_WORD_NS (10 * NANOSECONDS_PER_SECOND)
#define COURTESY_NS (2 * NANOSECONDS_PER_SECOND)

static QuasarMove *current;

QuasarMove *quasar_move(void)
{
    return current;
}

bool quasar_move_may_begin(Error **errp)
{
    if (!current) {
        return true;
    }
    if (current->role == QUASAR_ROLE_SOURCE &&
        current->where != QUASAR_WHERE_HERE) {
        error_setg(errp, "this machine was given to the other side of the "
                   "session before");
        error_append_hint(errp, "See query-quasar, and quasar-resolve if the "
                          "other side is lost.\n");
        return false;
    }
    if (current->stage != QUASAR_STAGE_DONE &&
        current->stage != QUASAR_STAGE_FAILED) {
        error_setg(errp, "a session is under way already");
        return false;
    }
    return true;
}

static void forget(QuasarMove *move)
{
    if (move->link) {
        quasar_link_close(move->link, FAREWELL_NS);
        quasar_link_unref(move->link);
    }
    object_unref(OBJECT(move->file));
    g_free(move->peer);
    g_free(move->reason);
    g_free(move);
}

static void query_transport(const QuasarMove *move, QuasarInfo *info)
{
    if (move->link) {
        quasar_link_query(move->link, info);
    } else if (move->role == QUASAR_ROLE_SOURCE) {
        quasar_file_writer_query(move->file, info);
    } else {
        quasar_file_reader_query(move->file, info);
    }
}

void quasar_move_begin(QuasarRole role, QuasarLink *link, QIOChannel *file)
{
    g_clear_pointer(&current, forget);
    current = g_new0(QuasarMove, 1);
    current->role = role;
    current->link = link;
    current->file = file;
    current->began = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    quasar_move_enter(QUASAR_STAGE_PREPARE,
                      role == QUASAR_ROLE_SOURCE ? QUASAR_WHERE_HERE
                                                 : QUASAR_WHERE_PEER, NULL);
}

void quasar_move_enter(QuasarStage stage, QuasarWhere where,
                       const char *reason)
{
    QuasarInfo figures = { 0 };

    current->stage = stage;
    current->where = where;
    if (reason) {
        g_free(current->reason);
        current->reason = g_strdup(reason);
    }
    query_transport(current, &figures);
    qapi_event_send_quasar_stage(
        current->role, stage, where,
        qemu_clock_get_ms(QEMU_CLOCK_REALTIME) - current->began,
        figures.wire_sent, reason);
    g_free(figures.session);
    qapi_free_QuasarLaneInfoList(figures.lanes);
}

void quasar_move_set_level(int level)
{
    if (current && current->link) {
        quasar_link_set_level(current->link, level);
    }
}

typedef struct MainWork {
    QuasarLink *link;
    void (*work)(void *opaque);
    void *opaque;
    GDestroyNotify destroy;
} MainWork;

static void main_work(void *opaque)
{
    g_autofree MainWork *work = opaque;

    if (current->link == work->link) {
        work->work(work->opaque);
    }
    if (work->destroy) {
        work->destroy(work->opaque);
    }
    quasar_link_unref(work->link);
}

void quasar_in_main_loop(QuasarLink *link, void (*work)(void *opaque),
                         void *opaque, GDestroyNotify destroy)
{
    MainWork *item = g_new0(MainWork, 1);

    item->link = quasar_link_ref(link);
    item->work = work;
    item->opaque = opaque;
    item->destroy = destroy;
    aio_bh_schedule_oneshot(qemu_get_aio_context(), main_work, item);
}

QuasarInfo *qmp_query_quasar(Error **errp)
{
    QuasarInfo *info;

    if (!current) {
        error_setg(errp, "there was no quasar session in this process");
        return NULL;
    }
    info = g_new0(QuasarInfo, 1);
    info->role = current->role;
    info->stage = current->stage;
    info->where = current->where;
    info->peer = g_strdup(current->peer);
    info->reason = g_strdup(current->reason);
    query_transport(current, info);
    info->disks = quasar_disk_query();
    info->verified = quasar_verify_bytes();
    info->verified_sections = quasar_verify_sections();
    return info;
}

bool quasar_cont(Error **errp)
{
    bool decided = quasar_outgoing_decided();

    if (!current || (current->where == QUASAR_WHERE_HERE && !decided)) {
        return false;
    }
    if (current->where == QUASAR_WHERE_UNDECIDED || decided) {
        error_setg(errp, "it is not known on this side whether the machine "
                   "runs on the other");
        error_append_hint(errp, "It goes on by itself when the other side is "
                          "reached.  If that is lost for good, use "
                          "quasar-resolve.\n");
        return true;
    }
    if (current->role == QUASAR_ROLE_DESTINATION &&
        quasar_incoming_want_run()) {
        return true;
    }
    error_setg(errp, "the machine is %s: %s",
               current->link ? "on the other side" : "not here",
               current->reason ?: current->link ? "it was moved there"
                                                : "it is being read");
    return true;
}

bool quasar_may_run(void)
{
    return !current || (current->where == QUASAR_WHERE_HERE &&
                        !quasar_outgoing_decided() &&
                        !quasar_outgoing_switches());
}

void quasar_shutdown(void)
{
    bool awaited = false;
    int64_t patience;

    if (!current) {
        return;
    }
    if (current->role == QUASAR_ROLE_SOURCE) {
        awaited = quasar_outgoing_shutdown();
    }
    if (!current->link) {
        return;
    }
    patience = awaited ? LAST_WORD_NS : COURTESY_NS;
    quasar_link_close(current->link, patience);
    quasar_link_wait_closed(current->link, patience);
}

void qmp_quasar_resolve(QuasarVerdict verdict, Error **errp)
{
    bool run = verdict == QUASAR_VERDICT_RUN;

    if (!current || current->where != QUASAR_WHERE_UNDECIDED) {
        error_setg(errp, "there is nothing to resolve: the machine is %s",
                   !current || current->where == QUASAR_WHERE_HERE
                   ? "here" : "on the other side");
        return;
    }
    if (current->role == QUASAR_ROLE_SOURCE) {
        quasar_outgoing_resolve(run);
    } else if (run) {
        quasar_incoming_commit(true);
    } else {
        quasar_incoming_discard();
    }
}

bool quasar_tls_creds(bool client, QCryptoTLSCreds **ret_creds, Error **errp)
{
    const char *id = migrate_tls_creds();

    *ret_creds = NULL;
    if (id && *id) {
        *ret_creds = quasar_peer_creds(id, client, errp);
        return *ret_creds;
    }
    return true;
}

bool quasar_plain_allowed(const SocketAddress *address)
{
    return address->type == SOCKET_ADDRESS_TYPE_UNIX ||
           quasar_settings()->plain ||
           quasar_peer_is_loopback(address->u.inet.host);
}
