/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source: from 'migrate' to the decision, and what follows it.
 *
 * QEMU's migration thread does the work and sees a channel; notifiers tell
 * where it stands.  See move.h for the commit.
 */
#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "block/aio.h"
#include "migration/misc.h"
#include "migration/quasar.h"
#include "migration/register.h"
#include "migration/vmstate.h"
#include "system/runstate.h"
#include "system/system.h"
#include "migration/migration.h"
#include "migration/options.h"
#include "migration/qemu-file.h"
#include "migration/ram.h"
#include "migration/yank_functions.h"
#include "channel.h"
#include "disk-hello.h"
#include "facts.h"
#include "file.h"
#include "move.h"
#include "settings.h"
#include "verify.h"
#include "wire/encoder.h"
#include "wire/error.h"
#include "../portability/policy.h"

#define CONFIRM_WAIT_NS (1 * NANOSECONDS_PER_SECOND)
#define ABORT_NS (600 * NANOSECONDS_PER_SECOND)
#define FILE_LEVEL 1          /* of zstd, unless it was set */
#define LANES_FOR_WORK 2
#define STOP_RESUME_NS (60 * NANOSECONDS_PER_SECOND)

typedef struct Outgoing {
    bool active;              /* from 'migrate' to DONE or FAILED */
    bool connected;           /* migration_connect() has been called */
    bool had_return_path;     /* the user's setting */
    int64_t start_time;       /* names the 'migrate' that this belongs to */
    NotifierWithReturn migration_notifiers[MIG_MODE__MAX];
    NotifierWithReturn precopy_notifier;
} Outgoing;

static Outgoing outgoing;

static MigrationState *state(void)
{
    return migrate_get_current();
}

static void set_return_path(bool on)
{
    state()->capabilities[MIGRATION_CAPABILITY_RETURN_PATH] = on;
}

/* The end of the part in which the migration thread is ours. */
static void finish(void)
{
    outgoing.active = false;
    quasar_disk_set_outgoing(false);
    quasar_verify_set_outgoing(false);
    set_return_path(outgoing.had_return_path);
}

static void tell_abort(const char *reason)
{
    QuasarMove *move = quasar_move();
    g_autoptr(QsKv) kv = NULL;

    if (move->file) {
        quasar_file_writer_discard(move->file, true);
        return;
    }
    kv = qs_kv_new();

    qs_kv_set_words(kv, "abort.reason", reason);
    quasar_link_discard_stream(move->link);
    quasar_link_send(move->link, QS_FRAME_ABORT, kv);
    /* one that has voted waits for this; one that is there confirms at once */
    quasar_link_close(move->link, ABORT_NS);
}

static char *failure_reason(void)
{
    MigrationState *s = state();

    if (s->state == MIGRATION_STATUS_CANCELLED) {
        return g_strdup("it was cancelled");
    }
    QEMU_LOCK_GUARD(&s->error_mutex);
    return g_strdup(s->error ? error_get_pretty(s->error) : "it failed");
}

static int migration_event(NotifierWithReturn *notifier, MigrationEvent *event,
                           Error **errp)
{
    QuasarMove *move = quasar_move();

    if (!outgoing.active) {
        return 0;
    }
    if (event->type == MIG_EVENT_PRECOPY_DONE && move->file) {
        finish();
        quasar_move_enter(QUASAR_STAGE_DONE, QUASAR_WHERE_HERE, NULL);
    } else if (event->type == MIG_EVENT_PRECOPY_DONE) {
        finish();
        quasar_link_be_patient(move->link);
        quasar_link_send(move->link, QS_FRAME_COMMIT, NULL);
        quasar_move_enter(QUASAR_STAGE_COMMIT, QUASAR_WHERE_UNDECIDED, NULL);
    } else if (event->type == MIG_EVENT_PRECOPY_FAILED) {
        g_autofree char *reason = failure_reason();

        finish();
        tell_abort(reason);
        quasar_move_enter(QUASAR_STAGE_FAILED, QUASAR_WHERE_HERE, reason);
    }
    return 0;
}

/*
 * The migration thread keeps the BQL from here on, so a lost connection stops
 * the monitor as well: it must not be for as long as somebody allowed for a
 * machine that runs.
 */
static void enter_stop(void)
{
    QuasarMove *move = quasar_move();

    if (move->stage == QUASAR_STAGE_STOP) {
        return;
    }
    if (move->link) {
        quasar_link_set_resume_ns(move->link, MIN(
            quasar_settings()->resume_seconds * NANOSECONDS_PER_SECOND,
            STOP_RESUME_NS));
    }
    quasar_move_enter(QUASAR_STAGE_STOP, QUASAR_WHERE_HERE, NULL);
}

/* In the migration thread or the main thread, with the BQL. */
static int precopy_event(NotifierWithReturn *notifier, void *data,
                         Error **errp)
{
    PrecopyNotifyData *event = data;

    if (!outgoing.active) {
        return 0;
    }
    if (event->reason == PRECOPY_NOTIFY_SETUP) {
        quasar_move_enter(QUASAR_STAGE_BULK, QUASAR_WHERE_HERE, NULL);
    } else if (event->reason == PRECOPY_NOTIFY_AFTER_BITMAP_SYNC &&
               quasar_move()->stage == QUASAR_STAGE_BULK &&
               quasar_disk_bulk_done()) {
        quasar_move_enter(QUASAR_STAGE_ROUNDS, QUASAR_WHERE_HERE, NULL);
    } else if (event->reason == PRECOPY_NOTIFY_COMPLETE) {
        enter_stop();           /* of a machine that was paused before */
    }
    return 0;
}

static void vm_state_changed(void *opaque, bool running, RunState run_state)
{
    if (outgoing.active && !running &&
        run_state == RUN_STATE_FINISH_MIGRATE) {
        enter_stop();
    }
}

/* The dialling is over, one way or the other. */
static void connect_migration(const Error *error)
{
    MigrationState *s = state();
    QIOChannel *channel;
    QEMUFile *file;

    if (!outgoing.active || outgoing.connected) {
        return;
    }
    outgoing.connected = true;
    if (s->state != MIGRATION_STATUS_SETUP ||
        s->start_time != outgoing.start_time) {
        g_autoptr(Error) cancelled = NULL;

        error_setg(&cancelled, "it was cancelled");
        migration_connect(s, cancelled);
        return;
    }
    if (error) {
        migration_connect(s, (Error *)error);
        return;
    }
    channel = quasar_move()->file
              ? QIO_CHANNEL(object_ref(OBJECT(quasar_move()->file)))
              : quasar_channel_new(quasar_move()->link);
    file = qemu_file_new_output(channel);
    object_unref(OBJECT(channel));
    migration_ioc_register_yank(channel);
    WITH_QEMU_LOCK_GUARD(&s->qemu_file_lock) {
        s->to_dst_file = file;
    }
    migration_connect(s, NULL);
}

typedef struct Ready {
    char *peer;
    QuasarHostFacts host;
    strList *by_reference;
} Ready;

static void ready_free(void *opaque)
{
    Ready *ready = opaque;

    g_free(ready->peer);
    qapi_free_strList(ready->by_reference);
    g_free(ready);
}

static void link_ready_bh(void *opaque)
{
    Ready *ready = opaque;
    g_autoptr(Error) refusal = NULL;

    g_free(quasar_move()->peer);
    quasar_move()->peer = g_steal_pointer(&ready->peer);
    quasar_disk_set_by_reference(ready->by_reference);
    quasar_portability_allows(&ready->host, &refusal);
    connect_migration(refusal);
}

static void link_ready(QuasarLink *link, const QsKv *theirs)
{
    Ready *ready = g_new0(Ready, 1);

    ready->peer = quasar_facts_describe(theirs);
    quasar_facts_host(theirs, &ready->host);
    ready->by_reference = quasar_disk_read_reply(theirs);
    quasar_in_main_loop(link, link_ready_bh, ready, ready_free);
}

static void link_dead_bh(void *opaque)
{
    const char *why = opaque;
    g_autoptr(Error) error = NULL;

    if (outgoing.active) {
        error_setg(&error, "%s", why);
        if (outgoing.connected) {
            migrate_set_error(state(), error);
        } else {
            connect_migration(error);
        }
    } else if (quasar_move()->where == QUASAR_WHERE_UNDECIDED) {
        quasar_move_enter(QUASAR_STAGE_COMMIT, QUASAR_WHERE_UNDECIDED, why);
    }
}

static void link_dead(QuasarLink *link, const char *why)
{
    quasar_in_main_loop(link, link_dead_bh, g_strdup(why), g_free);
}

static void vote_no(const QsKv *vote)
{
    const char *reason = qs_kv_get_string(vote, "vote.reason", NULL);
    g_autoptr(Error) error = NULL;

    error_setg(&error, "the destination refused: %s",
               reason ?: "it gave no reason");
    migrate_set_error(state(), error);
}

static void peer_runs_bh(void *opaque)
{
    QuasarMove *move = quasar_move();
    const char *words = opaque;

    if (move->where != QUASAR_WHERE_UNDECIDED) {
        return;
    }
    quasar_link_send(move->link, QS_FRAME_BYE, NULL);
    quasar_link_close(move->link, 10 * NANOSECONDS_PER_SECOND);
    quasar_move_enter(QUASAR_STAGE_DONE, QUASAR_WHERE_PEER,
                      *words ? words : NULL);
}

static void link_control(QuasarLink *link, QsFrameType type, const QsKv *kv)
{
    guint64 yes = 0;

    switch (type) {
    case QS_FRAME_VOTE:
        qs_kv_get_u64(kv, "vote.yes", &yes, NULL);
        if (!yes) {
            vote_no(kv);
            quasar_link_shutdown(link, true, true);
        }
        break;
    case QS_FRAME_RUNNING:
        quasar_in_main_loop(link, peer_runs_bh, g_strdup(
            qs_kv_get_string(kv, "running.note", NULL) ?: ""), g_free);
        break;
    default:
        break;
    }
}

static const QuasarLinkOps outgoing_ops = {
    .ready = link_ready,
    .control = link_control,
    .dead = link_dead,
};

bool quasar_outgoing_decided(void)
{
    return outgoing.active && !quasar_move()->file &&
           state()->state == MIGRATION_STATUS_COMPLETED;
}

bool quasar_outgoing_switches(void)
{
    /* the migration thread itself resumes what failed or was cancelled */
    return outgoing.active && runstate_check(RUN_STATE_FINISH_MIGRATE) &&
           (migration_is_running() ||
            state()->state == MIGRATION_STATUS_COMPLETED) &&
           !migration_thread_is_self();
}

bool quasar_outgoing_shutdown(void)
{
    if (!outgoing.active) {
        return quasar_move()->where == QUASAR_WHERE_UNDECIDED;
    }
    outgoing.active = false;
    if (quasar_move()->file) {
        /* a whole one stays: it may have been told as such by now */
        quasar_file_writer_discard(quasar_move()->file, false);
        return false;
    }
    if (state()->state == MIGRATION_STATUS_COMPLETED) {
        quasar_link_be_patient(quasar_move()->link);
        quasar_link_send(quasar_move()->link, QS_FRAME_COMMIT, NULL);
        return true;
    }
    tell_abort("the process there was ended");
    return outgoing.connected;        /* so it may have voted */
}

void quasar_cancel(void)
{
    g_autoptr(Error) cancelled = NULL;

    if (outgoing.active && !outgoing.connected) {
        error_setg(&cancelled, "it was cancelled");
        connect_migration(cancelled);
    }
}

void quasar_outgoing_resolve(bool run)
{
    QuasarMove *move = quasar_move();

    quasar_link_close(move->link, 0);
    if (run) {
        quasar_move_enter(QUASAR_STAGE_FAILED, QUASAR_WHERE_HERE,
                          "a person decided that it stays here");
    } else {
        quasar_move_enter(QUASAR_STAGE_DONE, QUASAR_WHERE_PEER,
                          "a person decided that it is on the other side");
    }
}

static bool check_capabilities(Error **errp)
{
    static const struct {
        MigrationCapability capability;
        const char *why;
    } refused[] = {
        { MIGRATION_CAPABILITY_POSTCOPY_RAM,
          "a machine that is torn between two hosts can be lost" },
        { MIGRATION_CAPABILITY_X_COLO, "the session has one end" },
        { MIGRATION_CAPABILITY_BACKGROUND_SNAPSHOT,
          "it does not carry the disks of the same moment" },
        { MIGRATION_CAPABILITY_ZERO_COPY_SEND,
          "what is sent is kept until it is confirmed" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        if (state()->capabilities[refused[i].capability]) {
            error_setg(errp, "quasar: does not go with the capability %s: %s",
                       MigrationCapability_str(refused[i].capability),
                       refused[i].why);
            return false;
        }
    }
    return true;
}

/*
 * Bytes that are just passed on come fastest over one connection; encryption
 * and compression are work that processors can share.
 */
static uint32_t choose_lanes(const QuasarLinkConfig *config)
{
    if (quasar_settings()->lanes) {
        return quasar_settings()->lanes;
    }
    return config->creds || config->level != QS_LEVEL_NONE ? LANES_FOR_WORK : 1;
}

static bool make_config(const SocketAddress *address, QuasarLinkConfig *config,
                        Error **errp)
{
    const char *hostname = migrate_tls_hostname();

    if (!quasar_tls_creds(true, &config->creds, errp)) {
        return false;
    }
    if (!config->creds && !quasar_plain_allowed(address)) {
        error_setg(errp, "the session would be open to everybody on the "
                   "network");
        error_append_hint(errp, "Set tls-creds with migrate-set-parameters, "
                          "or ask for it with quasar-set plain=true.\n");
        return false;
    }
    if (hostname && *hostname) {
        config->tls_hostname = g_strdup(hostname);
    } else if (address->type == SOCKET_ADDRESS_TYPE_INET) {
        config->tls_hostname = g_strdup(address->u.inet.host);
    }
    config->address = QAPI_CLONE(SocketAddress, address);
    config->level = quasar_settings()->level;
    config->lanes = choose_lanes(config);
    config->resume_ns = quasar_settings()->resume_seconds *
                        NANOSECONDS_PER_SECOND;
    return true;
}

/* What the source says of itself, its disks included. */
static QsKv *introduce(Error **errp)
{
    g_autoptr(QsKv) hello = quasar_facts_collect();

    if (quasar_settings()->disks) {
        quasar_disk_set_excluded(quasar_settings()->exclude_disks);
        if (!quasar_disk_offer(hello, errp)) {
            return NULL;
        }
    }
    return g_steal_pointer(&hello);
}

/* The migration thread is ours from now on, until finish(). */
static void begin(bool return_path)
{
    outgoing.had_return_path = migrate_return_path();
    outgoing.start_time = state()->start_time;
    outgoing.active = true;
    outgoing.connected = false;
    set_return_path(return_path);
    quasar_disk_set_outgoing(quasar_settings()->disks);
    quasar_verify_set_outgoing(quasar_settings()->verify);
}

static void start_session(SocketAddress *address, Error **errp)
{
    QuasarLinkConfig config = { 0 };
    QsKv *hello;

    if (!make_config(address, &config, errp)) {
        quasar_link_config_clear(&config);
        return;
    }
    hello = introduce(errp);
    if (!hello) {
        quasar_link_config_clear(&config);
        return;
    }
    qs_kv_set_u64(hello, "session.resume-seconds",
                  quasar_settings()->resume_seconds);
    begin(true);
    quasar_move_begin(QUASAR_ROLE_SOURCE,
                      quasar_link_new(&config, &outgoing_ops), NULL);
    quasar_link_dial(quasar_move()->link, hello);
}

/* Nobody answers: no return path, no vote, and disks travel whole. */
static void start_file(const char *path, Error **errp)
{
    QIOChannel *channel;
    QsKv *hello;

    if (migrate_switchover_ack()) {
        error_setg(errp, "quasar:file= does not go with the capability %s: "
                   "nobody answers", MigrationCapability_str(
                       MIGRATION_CAPABILITY_SWITCHOVER_ACK));
        return;
    }
    hello = introduce(errp);
    if (!hello) {
        return;
    }
    channel = quasar_file_writer_new(path, hello,
                                     quasar_settings()->level_set
                                     ? quasar_settings()->level : FILE_LEVEL,
                                     errp);
    if (!channel) {
        return;
    }
    quasar_disk_set_by_reference(NULL);
    begin(false);
    quasar_move_begin(QUASAR_ROLE_SOURCE, NULL, channel);
    quasar_move()->peer = g_strdup_printf("the file %s", path);
    connect_migration(NULL);
}

int quasar_complete(void)
{
    Error *err = NULL;

    if (!outgoing.active || !quasar_move()->file ||
        quasar_file_writer_complete(quasar_move()->file, &err)) {
        return 0;
    }
    migrate_set_error(state(), err);
    error_free(err);
    return -1;
}

void quasar_start_outgoing_migration(MigrationState *s, QuasarAddress *address,
                                     Error **errp)
{
    if (!quasar_move_may_begin(errp) || !quasar_address_check(address, errp) ||
        !check_capabilities(errp)) {
        return;
    }
    if (quasar_move() && quasar_move()->where != QUASAR_WHERE_HERE) {
        error_setg(errp, "the machine is not here: %s",
                   quasar_move()->reason ?: "it did not come whole");
        return;
    }
    if (migrate_mode() != MIG_MODE_NORMAL) {
        error_setg(errp, "quasar: does not go with the migration mode %s",
                   MigMode_str(migrate_mode()));
        return;
    }
    if (address->file) {
        start_file(address->file, errp);
    } else {
        start_session(address->socket, errp);
    }
}

/*
 * What is under way in the link still has to arrive before the machine can
 * run on the other side, so it counts for the convergence test.
 */
static bool is_active(void *opaque)
{
    return outgoing.active && outgoing.connected && !quasar_move()->file;
}

static void pending_exact(void *opaque, uint64_t *must_precopy,
                          uint64_t *can_postcopy)
{
    *must_precopy += quasar_link_in_flight(quasar_move()->link);
}

/*
 * Asked before each step.  QEMU looks exactly, and begins the next round, when
 * what is told here is small.  At the end of a round everything under way has
 * to be through first: it and the new round would exceed the limit together,
 * again and again.  To wait is better than to send empty sections meanwhile,
 * from which QEMU would take the link for a very slow one.
 */
static void pending_estimate(void *opaque, uint64_t *must_precopy,
                             uint64_t *can_postcopy)
{
    QuasarLink *link = quasar_move()->link;

    if (!ram_bytes_remaining() && !quasar_disk_left()) {
        quasar_link_wait_confirmed(link, CONFIRM_WAIT_NS);
    }
    *must_precopy += quasar_link_in_flight(link);
}

/* The section is for the questions above and has no content. */
static int load_nothing(QEMUFile *f, void *opaque, int version)
{
    return -EINVAL;
}

static const SaveVMHandlers link_handlers = {
    .load_state = load_nothing,
    .is_active = is_active,
    .state_pending_estimate = pending_estimate,
    .state_pending_exact = pending_exact,
    .load_cleanup = quasar_incoming_load_cleanup,
};

static void machine_done(Notifier *notifier, void *data)
{
    outgoing.precopy_notifier.notify = precopy_event;
    precopy_add_notifier(&outgoing.precopy_notifier);
}

static Notifier machine_done_notifier = { .notify = machine_done };

static void quasar_outgoing_init(void)
{
    register_savevm_live("quasar-link", 0, 1, &link_handlers, NULL);
    /* what is told depends on the mode at the end, which may be set meanwhile */
    for (int mode = 0; mode < MIG_MODE__MAX; mode++) {
        migration_add_notifier_mode(&outgoing.migration_notifiers[mode],
                                    migration_event, mode);
    }
    qemu_add_machine_init_done_notifier(&machine_done_notifier);
    qemu_add_vm_change_state_handler(vm_state_changed, NULL);
}

migration_init(quasar_outgoing_init);
