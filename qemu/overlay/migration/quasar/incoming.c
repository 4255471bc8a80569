/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination: from 'migrate-incoming' to the vote, and what follows it.
 *
 * QEMU loads from a channel as it does from a socket, but does not start the
 * machine when it is done: autostart is taken away until the source's
 * decision is here.  See move.h for the commit.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "block/aio.h"
#include "migration/global_state.h"
#include "migration/misc.h"
#include "migration/quasar.h"
#include "net/announce.h"
#include "system/runstate.h"
#include "system/system.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/yank_functions.h"
#include "channel.h"
#include "disk-hello.h"
#include "facts.h"
#include "file.h"
#include "move.h"
#include "settings.h"
#include "verify.h"
#include "wire/error.h"

#define VOTE_NO_WAIT_NS (3 * NANOSECONDS_PER_SECOND)
#define FAREWELL_NS (1 * NANOSECONDS_PER_SECOND)

typedef struct Incoming {
    bool active;              /* from the session's begin to its outcome */
    bool loading;             /* the load coroutine runs */
    bool want_run;            /* what autostart was, or 'cont' asked for */
    QsKv *facts;              /* of this side; read by the link's threads */
    AnnounceTimer announce_timer;
} Incoming;

static Incoming incoming;

bool quasar_incoming_want_run(void)
{
    if (!incoming.active) {
        return false;
    }
    incoming.want_run = true;
    return true;
}

bool quasar_stop(void)
{
    if (!incoming.active) {
        return false;
    }
    incoming.want_run = false;
    return true;
}

bool quasar_announces_later(void)
{
    return incoming.active;
}

/* A connection's thread: the source describes its machine. */
static bool link_hello(QuasarLink *link, const QsKv *offer, QsKv *reply,
                       Error **errp)
{
    guint64 seconds;

    quasar_facts_copy(incoming.facts, reply);
    if (!quasar_facts_fit(offer, incoming.facts, errp)) {
        return false;
    }
    if (!quasar_disk_judge(offer, reply, errp)) {
        return false;
    }
    if (qs_kv_get_u64(offer, "session.resume-seconds", &seconds, NULL)) {
        /* the source gives up first: it knows what became of the machine */
        quasar_link_set_resume_ns(link, (MIN(seconds, 24 * 3600) + 10) *
                                  NANOSECONDS_PER_SECOND);
    }
    return true;
}

/* Takes over @channel. */
static void load(QIOChannel *channel)
{
    QEMUFile *file;
    Error *err = NULL;

    if (!quasar_disk_incoming_start(&err)) {
        error_report_err(err);
    }
    file = qemu_file_new_input(channel);
    object_unref(OBJECT(channel));
    migration_ioc_register_yank(channel);
    incoming.loading = true;
    migration_fd_process_incoming(file);
}

static void link_ready_bh(void *opaque)
{
    g_free(quasar_move()->peer);
    quasar_move()->peer = g_strdup(opaque);
    load(quasar_channel_new(quasar_move()->link));
}

static void link_ready(QuasarLink *link, const QsKv *theirs)
{
    quasar_in_main_loop(link, link_ready_bh, quasar_facts_describe(theirs),
                        g_free);
}

/* Not here: another machine may come, and shall find things as they were. */
static void came_to_nothing(const char *reason)
{
    quasar_move_enter(QUASAR_STAGE_FAILED, QUASAR_WHERE_PEER, reason);
    incoming.active = false;
    autostart = incoming.want_run;
}

void quasar_incoming_discard(void)
{
    quasar_link_close(quasar_move()->link, 0);
    came_to_nothing("a person decided that it stays at the source");
}

/* The machine is the source's: this copy of it must never run. */
static void give_back(const char *reason)
{
    came_to_nothing(reason);
    if (migration_incoming_get_current()->exit_on_error) {
        if (quasar_move()->link) {
            quasar_link_wait_closed(quasar_move()->link, FAREWELL_NS);
        }
        error_report("the machine %s: %s", quasar_move()->link
                     ? "stays at the source" : "could not be read", reason);
        exit(EXIT_FAILURE);
    }
}

static void source_aborts_bh(void *opaque)
{
    const char *reason = opaque;
    QuasarMove *move = quasar_move();

    if (!incoming.active) {
        return;
    }
    quasar_link_close(move->link, NANOSECONDS_PER_SECOND);
    if (incoming.loading) {
        g_autoptr(Error) error = NULL;

        error_setg(&error, "the source gave up: %s", reason);
        migrate_set_error(migrate_get_current(), error);
        quasar_link_shutdown(move->link, true, true);
    } else if (move->where == QUASAR_WHERE_UNDECIDED) {
        give_back(reason);
    }
}

static void source_commits_bh(void *opaque)
{
    if (incoming.active && !incoming.loading &&
        quasar_move()->where == QUASAR_WHERE_UNDECIDED) {
        quasar_incoming_commit(false);
    }
}

static void source_knows_bh(void *opaque)
{
    quasar_link_close(quasar_move()->link, NANOSECONDS_PER_SECOND);
}

static void link_control(QuasarLink *link, QsFrameType type, const QsKv *kv)
{
    const char *reason = qs_kv_get_string(kv, "abort.reason", NULL);

    switch (type) {
    case QS_FRAME_COMMIT:
        quasar_in_main_loop(link, source_commits_bh, NULL, NULL);
        break;
    case QS_FRAME_ABORT:
        quasar_in_main_loop(link, source_aborts_bh,
                            g_strdup(reason ?: "no reason"), g_free);
        break;
    case QS_FRAME_BYE:
        quasar_in_main_loop(link, source_knows_bh, NULL, NULL);
        break;
    default:
        break;
    }
}

static void link_dead_bh(void *opaque)
{
    const char *why = opaque;
    g_autoptr(Error) error = NULL;

    if (incoming.loading) {
        error_setg(&error, "%s", why);
        migrate_set_error(migrate_get_current(), error);
    } else if (quasar_move()->where == QUASAR_WHERE_UNDECIDED) {
        quasar_move_enter(QUASAR_STAGE_COMMIT, QUASAR_WHERE_UNDECIDED, why);
    }
}

static void link_dead(QuasarLink *link, const char *why)
{
    quasar_in_main_loop(link, link_dead_bh, g_strdup(why), g_free);
}

static const QuasarLinkOps incoming_ops = {
    .hello = link_hello,
    .ready = link_ready,
    .control = link_control,
    .dead = link_dead,
};

static void vote(bool yes, const char *reason)
{
    g_autoptr(QsKv) kv = qs_kv_new();

    qs_kv_set_u64(kv, "vote.yes", yes);
    if (reason) {
        qs_kv_set_words(kv, "vote.reason", reason);
    }
    quasar_link_send(quasar_move()->link, QS_FRAME_VOTE, kv);
}

static char *failure_reason(void)
{
    MigrationState *s = migrate_get_current();
    const char *disk = quasar_disk_load_error();

    if (disk) {
        return g_strdup(disk);
    }
    QEMU_LOCK_GUARD(&s->error_mutex);
    return g_strdup(s->error ? error_get_pretty(s->error)
                             : "the machine could not be loaded");
}

static void file_loaded_bh(void *opaque)
{
    if (incoming.active && !incoming.loading && quasar_move()->file) {
        quasar_incoming_commit(false);
    }
}

static void loaded_well(void)
{
    if (quasar_move()->file) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), file_loaded_bh, NULL);
        return;
    }
    vote(true, NULL);
    quasar_move_enter(QUASAR_STAGE_COMMIT, QUASAR_WHERE_UNDECIDED, NULL);
}

static bool wait_for_word(QuasarLink *link, Error **errp)
{
    if (!quasar_link_be_patient(link)) {
        error_setg(errp, "the connection to the source was lost");
        return false;
    }
    return true;
}

/* QEMU saw nothing wrong. */
static void check_what_came(void)
{
    QIOChannel *file = quasar_move()->file;
    Error *err = NULL;

    if ((file && !quasar_file_reader_finish(file, &err)) ||
        !quasar_verify_devices_compare(&err) ||
        (!file && !wait_for_word(quasar_move()->link, &err))) {
        migrate_set_error(migrate_get_current(), err);
        error_free(err);
    }
}

/*
 * The load has ended and QEMU is about to say its last word on the return
 * path.  The vote goes first: both travel in lane 0.
 */
int quasar_incoming_load_cleanup(void *opaque)
{
    MigrationIncomingState *mis = migration_incoming_get_current();
    g_autofree char *reason = NULL;

    if (!incoming.active || !incoming.loading) {
        return 0;
    }
    incoming.loading = false;
    if (mis->state == MIGRATION_STATUS_COMPLETED) {
        check_what_came();
    }
    /* that a link died or the source gave up is an error by now, too */
    if (mis->state == MIGRATION_STATUS_COMPLETED &&
        !quasar_disk_load_error() &&
        !migrate_has_error(migrate_get_current())) {
        loaded_well();
        return 0;
    }
    reason = failure_reason();
    qemu_file_set_error(mis->from_src_file, -EIO);
    if (quasar_move()->link) {
        vote(false, reason);
        quasar_link_close(quasar_move()->link, VOTE_NO_WAIT_NS);
        /* the process may exit as soon as we return */
        quasar_link_wait_closed(quasar_move()->link, VOTE_NO_WAIT_NS);
    }
    if (mis->state == MIGRATION_STATUS_COMPLETED) {
        give_back(reason);            /* QEMU saw nothing wrong */
    } else {
        came_to_nothing(reason);
    }
    return 0;
}

/* Why it does not run now, or NULL when it does. */
static char *run_machine(void)
{
    Error *err = NULL;
    char *why;

    bool ran_there = !global_state_received() ||
                     runstate_is_live(global_state_get_runstate());

    if (!incoming.want_run || !ran_there) {
        return g_strdup("it is paused, as it was told to be");
    }
    if (!migration_block_activate(&err)) {
        why = g_strdup_printf("it is paused, since its disks cannot be "
                              "used: %s", error_get_pretty(err));
        error_report_err(err);
        return why;
    }
    vm_start();
    return NULL;
}

void quasar_incoming_commit(bool by_person)
{
    QuasarMove *move = quasar_move();
    g_autoptr(QsKv) kv = qs_kv_new();
    g_autofree char *note = NULL;

    incoming.active = false;
    move->where = QUASAR_WHERE_HERE;
    note = run_machine();
    qemu_announce_self(&incoming.announce_timer, migrate_announce_params());
    if (note) {
        qs_kv_set_words(kv, "running.note", note);
    }
    if (move->link) {
        quasar_link_send(move->link, QS_FRAME_RUNNING, kv);
    }
    quasar_move_enter(QUASAR_STAGE_DONE, QUASAR_WHERE_HERE,
                      note ?: by_person ? "a person decided that it runs here"
                                        : NULL);
    if (by_person) {
        quasar_link_close(move->link, NANOSECONDS_PER_SECOND);
    }
}

static void begin(QuasarLink *link, QIOChannel *file)
{
    quasar_move_begin(QUASAR_ROLE_DESTINATION, link, file);
    quasar_verify_reset();
    incoming.want_run = autostart;
    incoming.active = true;
    incoming.loading = false;
    autostart = 0;
}

static void file_load_bh(void *opaque)
{
    load(QIO_CHANNEL(opaque));
}

static void start_file(const char *path, Error **errp)
{
    g_autoptr(QsKv) mine = quasar_facts_collect();
    g_autoptr(QsKv) reply = qs_kv_new();
    QIOChannel *channel;
    const QsKv *theirs;

    if (!quasar_disk_survey(errp)) {
        return;
    }
    channel = quasar_file_reader_new(path, errp);
    if (!channel) {
        return;
    }
    theirs = quasar_file_reader_head(channel);
    if (!quasar_facts_fit(theirs, mine, errp) ||
        !quasar_disk_judge(theirs, reply, errp)) {
        object_unref(OBJECT(channel));
        return;
    }
    begin(NULL, channel);
    quasar_move()->peer = quasar_facts_describe(theirs);
    /* QEMU is prepared for the load's end only when this has returned */
    aio_bh_schedule_oneshot(qemu_get_aio_context(), file_load_bh,
                            object_ref(OBJECT(channel)));
}

static void start_session(SocketAddress *address, Error **errp)
{
    QuasarLinkConfig config = { 0 };
    SocketAddressList *list;
    QuasarLink *link;

    if (!quasar_tls_creds(false, &config.creds, errp)) {
        return;
    }
    if (!config.creds && !quasar_plain_allowed(address)) {
        error_setg(errp, "everybody on the network could send a machine here");
        error_append_hint(errp, "Set tls-creds with migrate-set-parameters, "
                          "or ask for it with quasar-set plain=true.\n");
        return;
    }
    config.tls_authz = g_strdup(migrate_tls_authz());
    config.resume_ns = 3600 * NANOSECONDS_PER_SECOND;
    if (!quasar_disk_survey(errp)) {
        quasar_link_config_clear(&config);
        return;
    }
    qs_kv_free(incoming.facts);
    incoming.facts = quasar_facts_collect();
    link = quasar_link_new(&config, &incoming_ops);
    list = quasar_link_listen(link, address, errp);
    if (!list) {
        /* nothing has begun: a machine may come in another way */
        quasar_link_close(link, 0);
        quasar_link_unref(link);
        return;
    }
    /* visitors are served already, but the main loop is ours */
    begin(link, NULL);
    for (SocketAddressList *l = list; l; l = l->next) {
        migrate_add_address(l->value);
    }
    qapi_free_SocketAddressList(list);
}

static void start(QuasarAddress *address, Error **errp)
{
    if (!quasar_move_may_begin(errp) || !quasar_address_check(address, errp)) {
        return;
    }
    if (address->file) {
        start_file(address->file, errp);
    } else {
        start_session(address->socket, errp);
    }
}

void quasar_start_incoming_migration(QuasarAddress *address, Error **errp)
{
    ERRP_GUARD();

    start(address, errp);
    if (*errp) {
        /* nothing has begun, so there may be another attempt */
        migrate_set_state(&migration_incoming_get_current()->state,
                          MIGRATION_STATUS_SETUP, MIGRATION_STATUS_NONE);
    }
}
