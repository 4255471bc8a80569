/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Theory of operation
 *
 * Two connections lead to a worker. The control connection is there as long as the worker is known
 * to live; its end is how a death is noticed while the NAT is frozen. The data connection is there
 * while the guest is: to freeze, its outgoing half is closed and what still comes is taken, until
 * the worker ends it ("draining"). A guest that returns meanwhile waits for that, which is a matter
 * of one turn of the worker's loop; after a second it is cut.
 *
 *   none --start--> starting --ready--> frozen <--data connected / drained--> running
 */
#include "nat.h"

#include "lines.h"
#include "log.h"
#include "net.h"
#include "stream.h"

#include <fcntl.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <string.h>
#include <unistd.h>

#define DATA_QUEUE (4 * 1024 * 1024)
#define LINE_MAX_SIZE (1024 * 1024)
#define OUTPUT_MAX (64 * 1024)
/* Every forward replaced by another, and the rest. */
#define ASKS_MAX (2 * QS_FORWARD_MAX + 8)
#define ASK_TIMEOUT_S 5
#define START_TIMEOUT_S 10
#define DRAIN_TIMEOUT_MS 1000
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 5000
/* A worker that lived so long had no reason of its own to die. */
#define BACKOFF_RESET_US (30 * G_USEC_PER_SEC)

typedef struct Ask {
    QsNatReply reply;
    void *opaque;
} Ask;

struct QsNat {
    const QsNatSettings *settings;
    QsIdentity *identity;
    const QsNatOps *ops;
    void *opaque;
    char *base; /* path without ".data" and ".ctl" */
    QsNatCounters counters;

    QsStream *data;
    bool draining;
    guint drain_timer;
    bool reading;

    QsLines *ctl;
    GQueue asks; /* of Ask, in the order they were sent */
    guint ask_timer;

    bool wanted;
    bool starting;
    int ready_fd;
    guint ready_tag;
    guint start_timer;
    guint retry_timer;
    guint backoff;
    gint64 started;
};

static void try_connect(QsNat *nat);
static bool connect_ctl(QsNat *nat);

static char *base_path(const char *directory, const QsIdentity *identity)
{
    return g_strdup_printf("%s/%s.%s", directory, identity->tenant, identity->name);
}

bool qs_nat_path_fits(const QsNatSettings *settings, const QsIdentity *identity, GError **error)
{
    g_autofree char *base = base_path(settings->directory, identity);
    g_autofree char *longest = g_strconcat(base, ".data", NULL);

    return qs_net_path_fits(longest, error);
}

QsNat *qs_nat_new(const QsNatSettings *settings, QsIdentity *identity, const QsNatOps *ops,
                  void *opaque, GError **error)
{
    QsNat *nat;

    if (!qs_nat_path_fits(settings, identity, error)) {
        return NULL;
    }
    nat = g_new0(QsNat, 1);
    nat->settings = settings;
    nat->identity = qs_identity_ref(identity);
    nat->ops = ops;
    nat->opaque = opaque;
    nat->base = base_path(settings->directory, identity);
    nat->ready_fd = -1;
    nat->reading = true;
    nat->backoff = BACKOFF_MIN_MS;
    g_queue_init(&nat->asks);
    return nat;
}

const QsNatCounters *qs_nat_counters(const QsNat *nat)
{
    return &nat->counters;
}

const char *qs_nat_state(const QsNat *nat)
{
    if (nat->data != NULL && !nat->draining) {
        return "running";
    }
    if (nat->starting) {
        return "starting";
    }
    return nat->ctl != NULL ? "frozen" : "none";
}

/* --- the control connection --- */

static void rearm_ask_timer(QsNat *nat);

static void answer_next(QsNat *nat, const char *reply)
{
    Ask *ask = g_queue_pop_head(&nat->asks);

    if (ask != NULL) {
        QsNatReply call = ask->reply;
        void *opaque = ask->opaque;

        g_free(ask);
        rearm_ask_timer(nat);
        if (call != NULL) {
            call(reply, opaque);
        }
    }
}

static void fail_asks(QsNat *nat)
{
    while (!g_queue_is_empty(&nat->asks)) {
        answer_next(nat, NULL);
    }
}

static void drop_ctl(QsNat *nat)
{
    if (nat->ctl != NULL) {
        g_clear_pointer(&nat->ctl, qs_lines_close);
    }
    fail_asks(nat);
}

static gboolean ask_timeout(gpointer data)
{
    QsNat *nat = data;

    nat->ask_timer = 0;
    qs_log(QS_LOG_WARNING, "nat-mute", "identity=%s", nat->identity->key);
    /* Answers would no longer match questions. */
    drop_ctl(nat);
    return G_SOURCE_REMOVE;
}

static void rearm_ask_timer(QsNat *nat)
{
    g_clear_handle_id(&nat->ask_timer, g_source_remove);
    if (!g_queue_is_empty(&nat->asks)) {
        nat->ask_timer = g_timeout_add_seconds(ASK_TIMEOUT_S, ask_timeout, nat);
    }
}

static void ctl_line(QsLines *lines, char *line, void *opaque)
{
    (void)lines;
    answer_next(opaque, line);
}

static void ctl_closed(QsLines *lines, const char *why, void *opaque)
{
    QsNat *nat = opaque;

    (void)lines;
    nat->ctl = NULL;
    fail_asks(nat);
    /* While the guest is there its data connection tells the same, before this one or after. */
    if (nat->data == NULL && !nat->starting && nat->retry_timer == 0) {
        nat->counters.losses++;
        qs_log(QS_LOG_WARNING, "nat-ended", "identity=%s why=\"%s\"", nat->identity->key,
               why != NULL ? why : "the worker ended while its guest was away");
    }
}

static const QsLinesOps ctl_ops = { .line = ctl_line, .closed = ctl_closed };

static void accept_reply(const char *reply, void *opaque)
{
    g_autofree char *key = opaque;

    if (reply == NULL || !g_str_has_prefix(reply, "ok")) {
        g_autofree char *quoted = qs_log_quote(reply != NULL ? reply : "no answer");

        qs_log(QS_LOG_WARNING, "drain-not-told", "identity=%s text=%s", key, quoted);
    }
}

void qs_nat_tell_draining(QsNat *nat)
{
    /* Connecting tells it already. */
    if (nat->ctl != NULL) {
        qs_nat_ask(nat, nat->settings->draining ? "accept off" : "accept on", accept_reply,
                   g_strdup(nat->identity->key));
    } else {
        connect_ctl(nat);
    }
}

static bool connect_ctl(QsNat *nat)
{
    g_autofree char *path = g_strconcat(nat->base, ".ctl", NULL);
    int fd;

    if (nat->ctl != NULL) {
        return true;
    }
    fd = qs_net_connect_unix(path, NULL);
    if (fd < 0) {
        return false;
    }
    if (!qs_net_peer_is_us(fd)) {
        qs_log(QS_LOG_ERROR, "nat-foreign", "identity=%s path=%s", nat->identity->key, path);
        close(fd);
        return false;
    }
    nat->ctl = qs_lines_new(fd, LINE_MAX_SIZE, OUTPUT_MAX, &ctl_ops, nat);
    qs_nat_tell_draining(nat);
    return true;
}

void qs_nat_ask(QsNat *nat, const char *line, QsNatReply reply, void *opaque)
{
    g_autofree char *text = NULL;
    Ask *ask;

    if (!connect_ctl(nat) || g_queue_get_length(&nat->asks) >= ASKS_MAX) {
        if (reply != NULL) {
            reply(NULL, opaque);
        }
        return;
    }
    ask = g_new0(Ask, 1);
    ask->reply = reply;
    ask->opaque = opaque;
    g_queue_push_tail(&nat->asks, ask);
    if (nat->ask_timer == 0) {
        rearm_ask_timer(nat);
    }
    text = g_strconcat(line, "\n", NULL);
    qs_lines_send(nat->ctl, text, -1);
}

/* --- forwards --- */

static void forward_reply(const char *reply, void *opaque)
{
    g_autofree char *what = opaque;

    if (reply == NULL || !g_str_has_prefix(reply, "ok")) {
        g_autofree char *quoted = qs_log_quote(reply != NULL ? reply : "no answer");

        qs_log(QS_LOG_WARNING, "forward-failed", "%s text=%s", what, quoted);
    }
}

static void ask_forward(QsNat *nat, const char *verb, const QsForward *f)
{
    char text[QS_FORWARD_TEXT];
    g_autofree char *line = NULL;

    qs_forward_format(f, text);
    line = g_strdup_printf("forward %s %s", verb, text);
    qs_nat_ask(nat, line, forward_reply,
               g_strdup_printf("identity=%s forward=%s", nat->identity->key, text));
}

static bool has_forward(const GArray *forwards, const QsForward *f)
{
    for (guint i = 0; i < forwards->len; i++) {
        if (qs_forward_equal(&g_array_index(forwards, QsForward, i), f)) {
            return true;
        }
    }
    return false;
}

static void ask_differences(QsNat *nat, const char *verb, const GArray *of, const GArray *not_in)
{
    for (guint i = 0; i < of->len; i++) {
        const QsForward *f = &g_array_index(of, QsForward, i);

        if (not_in == NULL || !has_forward(not_in, f)) {
            ask_forward(nat, verb, f);
        }
    }
}

void qs_nat_set_identity(QsNat *nat, QsIdentity *identity)
{
    if (connect_ctl(nat)) {
        ask_differences(nat, "del", nat->identity->forwards, identity->forwards);
        ask_differences(nat, "add", identity->forwards, nat->identity->forwards);
        if (!qs_identity_same_nat(nat->identity, identity)) {
            qs_log(QS_LOG_WARNING, "nat-settings-kept",
                   "identity=%s text=\"its worker keeps its former network settings until it is "
                   "started again\"",
                   identity->key);
        }
    }
    qs_identity_ref(identity);
    qs_identity_unref(nat->identity);
    nat->identity = identity;
}

/* --- starting --- */

static gboolean retry(gpointer data)
{
    QsNat *nat = data;

    nat->retry_timer = 0;
    try_connect(nat);
    return G_SOURCE_REMOVE;
}

static void retry_later(QsNat *nat)
{
    if (!nat->wanted || nat->retry_timer != 0) {
        return;
    }
    if (g_get_monotonic_time() - nat->started > BACKOFF_RESET_US) {
        nat->backoff = BACKOFF_MIN_MS;
    }
    nat->retry_timer = g_timeout_add(nat->backoff, retry, nat);
    nat->backoff = MIN(nat->backoff * 2, BACKOFF_MAX_MS);
}

static void end_start(QsNat *nat)
{
    g_clear_handle_id(&nat->ready_tag, g_source_remove);
    g_clear_handle_id(&nat->start_timer, g_source_remove);
    if (nat->ready_fd >= 0) {
        close(nat->ready_fd);
        nat->ready_fd = -1;
    }
    nat->starting = false;
}

static void start_failed(QsNat *nat, const char *why)
{
    end_start(nat);
    qs_log(QS_LOG_ERROR, "nat-start-failed", "identity=%s program=%s text=\"%s\"",
           nat->identity->key, nat->settings->program, why);
    retry_later(nat);
}

static gboolean start_timeout(gpointer data)
{
    QsNat *nat = data;

    nat->start_timer = 0;
    start_failed(nat, "the worker did not get ready in time");
    return G_SOURCE_REMOVE;
}

static gboolean start_ready(gint fd, GIOCondition condition, gpointer data)
{
    QsNat *nat = data;
    char word[16];
    ssize_t n = read(fd, word, sizeof(word));

    (void)condition;
    nat->ready_tag = 0;
    if (n <= 0) {
        start_failed(nat, "the worker ended before it was ready; its reason stands above");
        return G_SOURCE_REMOVE;
    }
    end_start(nat);
    nat->counters.starts++;
    qs_log(QS_LOG_INFO, "nat-started", "identity=%s", nat->identity->key);
    if (!connect_ctl(nat)) {
        qs_log(QS_LOG_WARNING, "nat-mute", "identity=%s", nat->identity->key);
    }
    try_connect(nat);
    return G_SOURCE_REMOVE;
}

static GPtrArray *worker_arguments(QsNat *nat)
{
    const QsIdentity *id = nat->identity;
    GPtrArray *args = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *network = qs_identity_format_ipv4(id->network);
    g_autofree char *address = qs_identity_format_ipv4(id->address);

    g_ptr_array_add(args, g_strdup(nat->settings->program));
    g_ptr_array_add(args, g_strdup_printf("--directory=%s", nat->settings->directory));
    g_ptr_array_add(args, g_strdup_printf("--name=%s.%s", id->tenant, id->name));
    g_ptr_array_add(args, g_strdup_printf("--network=%s/%u", network, id->prefix));
    g_ptr_array_add(args, g_strconcat("--address=", address, NULL));
    g_ptr_array_add(args, g_strdup_printf("--mtu=%u", id->mtu));
    g_ptr_array_add(args, g_strdup_printf("--linger=%u", nat->settings->linger));
    if (id->nat == QS_IDENTITY_NAT_SCALED) {
        g_ptr_array_add(args, g_strdup("--nat=scaled"));
    }
    if (!id->ipv6) {
        g_ptr_array_add(args, g_strdup("--no-ipv6"));
    }
    if (id->host_loopback) {
        g_ptr_array_add(args, g_strdup("--host-loopback"));
    }
    if (!nat->settings->seccomp) {
        g_ptr_array_add(args, g_strdup("--no-seccomp"));
    }
    if (nat->settings->draining) {
        g_ptr_array_add(args, g_strdup("--no-accept"));
    }
    for (guint i = 0; i < id->forwards->len; i++) {
        char text[QS_FORWARD_TEXT];

        qs_forward_format(&g_array_index(id->forwards, QsForward, i), text);
        g_ptr_array_add(args, g_strdup_printf("--forward=%s", text));
    }
    g_ptr_array_add(args, NULL);
    return args;
}

static void start(QsNat *nat)
{
    g_autoptr(GPtrArray) args = worker_arguments(nat);
    g_autoptr(GError) error = NULL;
    int out = -1;

    nat->started = g_get_monotonic_time();
    /* Without DO_NOT_REAP_CHILD GLib forks twice: the worker is init's child from the beginning. */
    if (!g_spawn_async_with_pipes(NULL, (char **)args->pdata, NULL, G_SPAWN_DEFAULT, NULL, NULL,
                                  NULL, NULL, &out, NULL, &error)) {
        start_failed(nat, error->message);
        return;
    }
    fcntl(out, F_SETFD, FD_CLOEXEC);
    nat->starting = true;
    nat->ready_fd = out;
    nat->ready_tag = g_unix_fd_add(out, G_IO_IN | G_IO_HUP, start_ready, nat);
    nat->start_timer = g_timeout_add_seconds(START_TIMEOUT_S, start_timeout, nat);
}

/* --- the data connection --- */

static void data_record(QsStream *stream, guint8 type, const guint8 *data, gsize size, void *opaque)
{
    QsNat *nat = opaque;

    (void)stream;
    (void)type;
    nat->ops->frame(data, size, nat->opaque);
}

static void data_closed(QsStream *stream, const GError *error, void *opaque)
{
    QsNat *nat = opaque;

    (void)stream;
    nat->data = NULL;
    g_clear_handle_id(&nat->drain_timer, g_source_remove);
    if (nat->draining) {
        /* A frame that arrived in part is with the worker still, whole. */
        nat->draining = false;
        try_connect(nat);
        return;
    }
    nat->counters.losses++;
    qs_log(QS_LOG_WARNING, "nat-lost",
           "identity=%s text=\"the worker ended; its connections are gone\" why=\"%s\"",
           nat->identity->key, error != NULL ? error->message : "end of stream");
    retry_later(nat);
}

static const QsStreamOps data_ops = { .record = data_record, .closed = data_closed };

/* Brings what is there to what is wanted. */
static void try_connect(QsNat *nat)
{
    g_autofree char *path = NULL;
    int fd;

    if (!nat->wanted || nat->data != NULL || nat->starting || nat->retry_timer != 0) {
        return;
    }
    path = g_strconcat(nat->base, ".data", NULL);
    fd = qs_net_connect_unix(path, NULL);
    if (fd < 0) {
        start(nat);
        return;
    }
    if (!qs_net_peer_is_us(fd)) {
        qs_log(QS_LOG_ERROR, "nat-foreign", "identity=%s path=%s", nat->identity->key, path);
        close(fd);
        return;
    }
    nat->data = qs_stream_new(qs_channel_new_plain(fd), DATA_QUEUE, &data_ops, nat);
    qs_stream_allow_frames(nat->data, true);
    qs_stream_set_reading(nat->data, nat->reading);
    connect_ctl(nat);
}

static gboolean drain_timeout(gpointer data)
{
    QsNat *nat = data;

    nat->drain_timer = 0;
    nat->draining = false;
    qs_log(QS_LOG_WARNING, "nat-mute", "identity=%s", nat->identity->key);
    g_clear_pointer(&nat->data, qs_stream_close);
    try_connect(nat);
    return G_SOURCE_REMOVE;
}

void qs_nat_set_running(QsNat *nat, bool running)
{
    nat->wanted = running;
    if (running) {
        try_connect(nat);
        return;
    }
    g_clear_handle_id(&nat->retry_timer, g_source_remove);
    if (nat->data != NULL && !nat->draining) {
        nat->draining = true;
        nat->drain_timer = g_timeout_add(DRAIN_TIMEOUT_MS, drain_timeout, nat);
        qs_stream_half_close(nat->data);
        qs_stream_set_reading(nat->data, true);
    }
}

void qs_nat_send(QsNat *nat, const guint8 *frame, gsize size)
{
    if (nat->data == NULL || nat->draining ||
        !qs_stream_send(nat->data, QS_RELAY_FRAME, frame, size)) {
        nat->counters.dropped++;
    }
}

void qs_nat_set_reading(QsNat *nat, bool on)
{
    nat->reading = on;
    if (nat->data != NULL && !nat->draining) {
        qs_stream_set_reading(nat->data, on);
    }
}

static void adopted(const char *reply, void *opaque)
{
    g_autofree char *key = opaque;
    g_autofree char *quoted = qs_log_quote(reply != NULL ? reply : "no answer");

    qs_log(QS_LOG_INFO, "nat-adopted", "identity=%s worker=%s", key, quoted);
}

bool qs_nat_adopt(QsNat *nat)
{
    if (!connect_ctl(nat)) {
        return false;
    }
    nat->counters.adoptions++;
    qs_nat_ask(nat, "stat", adopted, g_strdup(nat->identity->key));
    ask_differences(nat, "add", nat->identity->forwards, NULL);
    return true;
}

void qs_nat_stop_worker(QsNat *nat)
{
    nat->wanted = false;
    g_clear_handle_id(&nat->retry_timer, g_source_remove);
    g_clear_handle_id(&nat->drain_timer, g_source_remove);
    nat->draining = false;
    g_clear_pointer(&nat->data, qs_stream_close);
    if (connect_ctl(nat)) {
        qs_lines_send(nat->ctl, "quit\n", -1);
        qs_lines_finish(nat->ctl);
        nat->ctl = NULL;
    }
    fail_asks(nat);
}

void qs_nat_free(QsNat *nat)
{
    if (nat == NULL) {
        return;
    }
    nat->wanted = false;
    end_start(nat);
    g_clear_handle_id(&nat->retry_timer, g_source_remove);
    g_clear_handle_id(&nat->drain_timer, g_source_remove);
    g_clear_pointer(&nat->data, qs_stream_close);
    drop_ctl(nat);
    g_clear_handle_id(&nat->ask_timer, g_source_remove);
    qs_identity_unref(nat->identity);
    g_free(nat->base);
    g_free(nat);
}

static const QsLinesOps no_ops = { .line = NULL, .closed = NULL };

/* What a worker that ended left behind; `path` is that of its control socket. */
static void sweep_names(const char *path)
{
    g_autofree char *base = g_strndup(path, strlen(path) - strlen(".ctl"));
    g_autofree char *data = g_strconcat(base, ".data", NULL);

    unlink(path);
    unlink(data);
}

static void sweep_one(const char *directory, const char *name)
{
    g_autofree char *path = g_build_filename(directory, name, NULL);
    g_autoptr(GError) error = NULL;
    int fd = qs_net_connect_unix(path, &error);
    QsLines *lines;

    if (g_error_matches(error, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED)) {
        sweep_names(path);
        return;
    }
    if (fd < 0 || !qs_net_peer_is_us(fd)) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    qs_log(QS_LOG_INFO, "nat-orphan-ended", "worker=%s", name);
    lines = qs_lines_new(fd, LINE_MAX_SIZE, OUTPUT_MAX, &no_ops, NULL);
    qs_lines_send(lines, "quit\n", -1);
    qs_lines_finish(lines);
}

void qs_nat_sweep(const char *directory, GHashTable *known)
{
    g_autoptr(GDir) dir = g_dir_open(directory, 0, NULL);
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *key = NULL;
        char *dot;

        if (!g_str_has_suffix(name, ".ctl")) {
            continue;
        }
        key = g_strndup(name, strlen(name) - strlen(".ctl"));
        dot = strchr(key, '.');
        if (dot != NULL) {
            *dot = '/';
        }
        if (!g_hash_table_contains(known, key)) {
            sweep_one(directory, name);
        }
    }
}
