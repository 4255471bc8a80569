/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * quasar-relay-nat: the NAT of one guest, in a process of its own.
 *
 * Theory of operation
 *
 * The worker listens on two unix sockets in the relay's NAT directory, NAME.data and NAME.ctl.
 * NAME.data carries frames with a four-byte length before each, and has one client at a time: a
 * new one replaces the old, which can only be what a dead relay left behind. The NAT runs while
 * there is a client and is frozen while there is none; that is all the state there is about it, so
 * a relay that dies freezes its workers by dying, and one that starts adopts them by connecting.
 * A client that lets go ends its own direction and reads on: the worker freezes and closes, so what
 * stood in the socket still arrives, and what did not get that far is kept for the next client.
 *
 * NAME.ctl takes a line per command and answers each with one line, "ok ..." or "error ...".
 *
 * A lock on NAME.lock keeps two workers of one name apart. A worker without a client ends after
 * its linger time, so what an operator forgot does not stay for ever.
 */
#include "forward.h"
#include "lines.h"
#include "log.h"
#include "nat_slirp.h"
#include "net.h"
#include "protocol.h"
#include "sandbox.h"
#include "stream.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <signal.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#define DATA_QUEUE (4 * 1024 * 1024)
#define CTL_CLIENTS_MAX 4
#define CTL_LINE_MAX 512
#define CTL_OUTPUT_MAX (1024 * 1024)
#define DESCRIPTORS 8192
#define MEMORY (G_GUINT64_CONSTANT(512) << 20)
#define LINGER_DEFAULT 86400

typedef struct Worker {
    QsNatSlirp *nat;
    QsStream *data;
    QsQueue *kept; /* what the last client did not take */
    int data_listener;
    int ctl_listener;
    guint ctl_clients;
    guint linger;
    guint linger_timer;
    guint64 dropped;
    char *settings; /* what the relay compares when it adopts us */
    bool quit;
    bool sandboxed;
} Worker;

static char *opt_directory, *opt_name, *opt_network, *opt_address, *opt_nat;
static char **opt_forwards;
static gint opt_mtu = 1500;
static gint opt_linger = LINGER_DEFAULT;
static gboolean opt_no_ipv6, opt_host_loopback, opt_no_seccomp, opt_no_accept;

static const GOptionEntry options[] = {
    { "directory", 0, 0, G_OPTION_ARG_FILENAME, &opt_directory, "where the sockets are", "DIR" },
    { "name", 0, 0, G_OPTION_ARG_STRING, &opt_name, "what they are called", "NAME" },
    { "network", 0, 0, G_OPTION_ARG_STRING, &opt_network, "the guest's network", "ADDRESS/BITS" },
    { "address", 0, 0, G_OPTION_ARG_STRING, &opt_address, "the guest's address", "ADDRESS" },
    { "mtu", 0, 0, G_OPTION_ARG_INT, &opt_mtu, "largest IP packet", "BYTES" },
    { "linger", 0, 0, G_OPTION_ARG_INT, &opt_linger, "end after that long unused", "SECONDS" },
    { "nat", 0, 0, G_OPTION_ARG_STRING, &opt_nat, "whose TCP it has", "slirp|scaled" },
    { "no-ipv6", 0, 0, G_OPTION_ARG_NONE, &opt_no_ipv6, "IPv4 alone", NULL },
    { "host-loopback", 0, 0, G_OPTION_ARG_NONE, &opt_host_loopback,
      "the guest reaches this host's loopback", NULL },
    { "no-seccomp", 0, 0, G_OPTION_ARG_NONE, &opt_no_seccomp, "do not filter system calls", NULL },
    { "no-accept", 0, 0, G_OPTION_ARG_NONE, &opt_no_accept,
      "TCP forwards take no connections for now", NULL },
    { "forward", 0, 0, G_OPTION_ARG_STRING_ARRAY, &opt_forwards, "a port forward",
      "PROTO:ADDRESS:PORT:GUESTPORT" },
    G_OPTION_ENTRY_NULL,
};

static gboolean linger_over(gpointer data)
{
    Worker *w = data;

    w->linger_timer = 0;
    w->quit = true;
    qs_log(QS_LOG_INFO, "nat-unused", "name=%s seconds=%u", opt_name, w->linger);
    return G_SOURCE_REMOVE;
}

static void freeze(Worker *w)
{
    qs_nat_slirp_set_frozen(w->nat, true);
    if (w->linger_timer == 0) {
        w->linger_timer = g_timeout_add_seconds(w->linger, linger_over, w);
    }
}

static void thaw(Worker *w)
{
    g_clear_handle_id(&w->linger_timer, g_source_remove);
    qs_nat_slirp_set_frozen(w->nat, false);
}

static void to_guest(const guint8 *frame, gsize size, void *opaque)
{
    Worker *w = opaque;

    if (size > QS_RELAY_FRAME_MAX || w->data == NULL ||
        !qs_stream_send(w->data, QS_RELAY_FRAME, frame, size)) {
        w->dropped++;
    }
}

static void data_record(QsStream *stream, guint8 type, const guint8 *data, gsize size, void *opaque)
{
    Worker *w = opaque;

    (void)stream;
    (void)type;
    /* The stream hands out its own buffer and does not look at the record again. */
    qs_nat_slirp_input(w->nat, (guint8 *)(guintptr)data, size);
}

static void data_closed(QsStream *stream, const GError *error, void *opaque)
{
    Worker *w = opaque;

    w->data = NULL;
    freeze(w);
    (void)error;
    w->dropped += qs_queue_move_frames(w->kept, qs_stream_queue(stream));
}

static const QsStreamOps data_ops = {
    .record = data_record,
    .closed = data_closed,
};

static void drop_data(Worker *w)
{
    if (w->data != NULL) {
        w->dropped += qs_queue_move_frames(w->kept, qs_stream_queue(w->data));
        qs_stream_close(w->data);
        w->data = NULL;
    }
}

static gboolean data_accept(gint listener, GIOCondition condition, gpointer data)
{
    Worker *w = data;
    int fd = qs_net_accept(listener, NULL);

    (void)condition;
    if (fd < 0) {
        return G_SOURCE_CONTINUE;
    }
    if (!qs_net_peer_is_us(fd)) {
        close(fd);
        return G_SOURCE_CONTINUE;
    }
    if (w->data != NULL) {
        /* What the old client did not take counts as lost: freezing and thawing sends it again. */
        drop_data(w);
        freeze(w);
    }
    w->data = qs_stream_new(qs_channel_new_plain(fd), DATA_QUEUE, &data_ops, w);
    qs_stream_allow_frames(w->data, true);
    w->dropped += qs_queue_move_frames(qs_stream_queue(w->data), w->kept);
    thaw(w);
    return G_SOURCE_CONTINUE;
}

static char *answer_stat(Worker *w)
{
    char guest6[INET6_ADDRSTRLEN] = "-";
    QsSegmentIp address;

    if (qs_nat_slirp_guest6(w->nat, &address)) {
        inet_ntop(AF_INET6, address.bytes, guest6, sizeof(guest6));
    }
    return g_strdup_printf("ok pid=%d frozen=%d sandboxed=%d dropped=%" G_GUINT64_FORMAT
                           " urgent-cleared=%" G_GUINT64_FORMAT " refused=%" G_GUINT64_FORMAT
                           " tcp-flows=%u tcp-memory=%" G_GSIZE_FORMAT " guest6=%s settings=%s",
                           (int)getpid(), qs_nat_slirp_is_frozen(w->nat), w->sandboxed, w->dropped,
                           qs_nat_slirp_verdicts(w->nat, QS_GUARD_CLEARED),
                           qs_nat_slirp_verdicts(w->nat, QS_GUARD_PROTOCOL) +
                               qs_nat_slirp_verdicts(w->nat, QS_GUARD_MALFORMED) +
                               qs_nat_slirp_verdicts(w->nat, QS_GUARD_FRAGMENT),
                           qs_nat_slirp_tcp_flows(w->nat), qs_nat_slirp_tcp_memory(w->nat), guest6,
                           w->settings);
}

static char *answer_forward_list(Worker *w)
{
    const GArray *forwards = qs_nat_slirp_forwards(w->nat);
    GString *text = g_string_new("ok");

    for (guint i = 0; i < forwards->len; i++) {
        char one[QS_FORWARD_TEXT];

        g_string_append_printf(text, " %s",
                               qs_forward_format(&g_array_index(forwards, QsForward, i), one));
    }
    return g_string_free(text, FALSE);
}

static char *answer_forward(Worker *w, bool add, const char *spec)
{
    g_autoptr(GError) error = NULL;
    QsForward f;

    if (!qs_forward_parse(spec, &f, &error) ||
        !(add ? qs_nat_slirp_forward_add(w->nat, &f, &error)
              : qs_nat_slirp_forward_del(w->nat, &f, &error))) {
        return g_strdup_printf("error %s", error->message);
    }
    return g_strdup("ok");
}

static char *answer(Worker *w, const char *line)
{
    if (g_str_equal(line, "stat")) {
        return answer_stat(w);
    }
    if (g_str_equal(line, "flows")) {
        g_autofree char *flows = qs_nat_slirp_flows(w->nat);
        g_autofree char *escaped = g_strescape(flows, NULL);

        return g_strdup_printf("ok %s", escaped);
    }
    if (g_str_equal(line, "accept on") || g_str_equal(line, "accept off")) {
        qs_nat_slirp_set_accepting(w->nat, g_str_equal(line, "accept on"));
        return g_strdup("ok");
    }
    if (g_str_equal(line, "forward list")) {
        return answer_forward_list(w);
    }
    if (g_str_has_prefix(line, "forward add ")) {
        return answer_forward(w, true, line + strlen("forward add "));
    }
    if (g_str_has_prefix(line, "forward del ")) {
        return answer_forward(w, false, line + strlen("forward del "));
    }
    if (g_str_equal(line, "quit")) {
        w->quit = true;
        return g_strdup("ok");
    }
    return g_strdup("error no such command");
}

static void ctl_line(QsLines *lines, char *line, void *opaque)
{
    g_autofree char *text = answer(opaque, line);
    g_autofree char *whole = g_strconcat(text, "\n", NULL);

    qs_lines_send(lines, whole, -1);
}

static void ctl_closed(QsLines *lines, const char *why, void *opaque)
{
    Worker *w = opaque;

    (void)lines;
    (void)why;
    w->ctl_clients--;
}

static const QsLinesOps ctl_ops = { .line = ctl_line, .closed = ctl_closed };

static gboolean ctl_accept(gint listener, GIOCondition condition, gpointer data)
{
    Worker *w = data;
    int fd = qs_net_accept(listener, NULL);

    (void)condition;
    if (fd < 0) {
        return G_SOURCE_CONTINUE;
    }
    if (w->ctl_clients == CTL_CLIENTS_MAX || !qs_net_peer_is_us(fd)) {
        close(fd);
        return G_SOURCE_CONTINUE;
    }
    w->ctl_clients++;
    qs_lines_new(fd, CTL_LINE_MAX, CTL_OUTPUT_MAX, &ctl_ops, w);
    return G_SOURCE_CONTINUE;
}

static bool take_lock(GError **error)
{
    g_autofree char *path = g_strdup_printf("%s/%s.lock", opt_directory, opt_name);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    /* Kept open until the process ends. */
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno),
                    "cannot lock %s: %s; another worker has this name", path, g_strerror(errno));
        return false;
    }
    return true;
}

static int listen_as(const char *kind, GError **error)
{
    g_autofree char *path = g_strdup_printf("%s/%s.%s", opt_directory, opt_name, kind);

    return qs_net_listen_unix(path, 0600, error);
}

static bool parse_config(QsNatConfig *config, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(opt_network != NULL ? opt_network : "", "/", 2);
    guint64 prefix;

    if (opt_directory == NULL || opt_name == NULL || opt_address == NULL ||
        g_strv_length(parts) != 2 || !qs_forward_parse_ipv4(parts[0], &config->network) ||
        !g_ascii_string_to_unsigned(parts[1], 10, 8, 28, &prefix, NULL) ||
        !qs_forward_parse_ipv4(opt_address, &config->address) || opt_mtu < (gint)QS_RELAY_MTU_MIN ||
        opt_mtu > (gint)QS_RELAY_MTU_MAX || opt_linger < 1 ||
        !(opt_nat == NULL || g_str_equal(opt_nat, "slirp") || g_str_equal(opt_nat, "scaled"))) {
        g_set_error_literal(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                            "--directory, --name, --network and --address are needed, with an MTU "
                            "of 576 to 65520 and --nat=slirp or scaled");
        return false;
    }
    config->prefix = (guint)prefix;
    config->mtu = (guint)opt_mtu;
    config->ipv6 = !opt_no_ipv6;
    config->host_loopback = opt_host_loopback;
    config->scaled = g_strcmp0(opt_nat, "scaled") == 0;
    config->hostname = "quasar-relay";
    return true;
}

static void add_forwards(Worker *w)
{
    /* One that cannot listen is reported; the guest still gets its network. */
    for (guint i = 0; opt_forwards != NULL && opt_forwards[i] != NULL; i++) {
        g_autofree char *reply = answer_forward(w, true, opt_forwards[i]);

        if (!g_str_equal(reply, "ok")) {
            g_autofree char *quoted = qs_log_quote(reply + strlen("error "));

            qs_log(QS_LOG_WARNING, "forward-failed", "name=%s forward=%s text=%s", opt_name,
                   opt_forwards[i], quoted);
        }
    }
}

static gboolean on_signal(gpointer data)
{
    ((Worker *)data)->quit = true;
    return G_SOURCE_CONTINUE;
}

static bool start(Worker *w, GError **error)
{
    QsNatConfig config = { 0 };

    if (!parse_config(&config, error) || !take_lock(error) || !qs_sandbox_give_up(error) ||
        !qs_sandbox_limit(DESCRIPTORS, MEMORY, error)) {
        return false;
    }
    w->data_listener = listen_as("data", error);
    if (w->data_listener < 0) {
        return false;
    }
    w->ctl_listener = listen_as("ctl", error);
    if (w->ctl_listener < 0) {
        return false;
    }
    w->linger = (guint)opt_linger;
    w->settings =
        g_strdup_printf("%s,%s,%d,%d,%d,%s", opt_network, opt_address, opt_mtu, !opt_no_ipv6,
                        opt_host_loopback, config.scaled ? "scaled" : "slirp");
    w->kept = qs_queue_new(DATA_QUEUE);
    w->nat = qs_nat_slirp_new(&config, to_guest, w);
    qs_nat_slirp_set_accepting(w->nat, !opt_no_accept);
    add_forwards(w);
    freeze(w);
    /* Before the filter: GLib starts a thread for these. */
    g_unix_signal_add(SIGTERM, on_signal, w);
    g_unix_signal_add(SIGINT, on_signal, w);
    g_unix_fd_add(w->data_listener, G_IO_IN, data_accept, w);
    g_unix_fd_add(w->ctl_listener, G_IO_IN, ctl_accept, w);
    return opt_no_seccomp || qs_sandbox_filter(QS_SANDBOX_WORKER, &w->sandboxed, error);
}

/* The relay waits for this word; then the pipe is let go, for the relay may end before us. */
static void tell_ready(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    fputs("ready\n", stdout);
    fflush(stdout);
    if (null >= 0) {
        dup2(null, STDOUT_FILENO);
        dup2(null, STDIN_FILENO);
        close(null);
    }
}

/* libslirp's descriptors join those of the main context in one poll(). While the guest's queue is
 * choked the NAT is left alone: its sockets fill, and their peers wait. */
static void turn(Worker *w, GMainContext *context, GArray *fds)
{
    gint priority, timeout, count;
    bool choked = w->data != NULL && qs_stream_choked(w->data);

    g_main_context_prepare(context, &priority);
    g_array_set_size(fds, MAX(fds->len, 16));
    while ((count = g_main_context_query(context, priority, &timeout, (GPollFD *)(void *)fds->data,
                                         (gint)fds->len)) > (gint)fds->len) {
        g_array_set_size(fds, (guint)count);
    }
    g_array_set_size(fds, (guint)count);
    if (!choked) {
        qs_nat_slirp_fill(w->nat, fds, &timeout);
    }
    if (g_poll((GPollFD *)(void *)fds->data, fds->len, timeout) < 0) {
        for (guint i = 0; i < fds->len; i++) {
            g_array_index(fds, GPollFD, i).revents = 0;
        }
    }
    if (g_main_context_check(context, priority, (GPollFD *)(void *)fds->data, count)) {
        g_main_context_dispatch(context);
    }
    if (!choked) {
        qs_nat_slirp_poll(w->nat, fds);
    }
}

static void stop(Worker *w, GMainContext *context)
{
    /* Who connects now is told that nobody is there. The names stay, for the filter forbids taking
     * them away: whoever listens there next replaces them, and the relay sweeps up when it starts.
     */
    shutdown(w->data_listener, SHUT_RDWR);
    shutdown(w->ctl_listener, SHUT_RDWR);
    /* The answer to "quit" is still on its way. */
    for (int i = 0; i < 4; i++) {
        g_main_context_iteration(context, FALSE);
    }
    drop_data(w);
    qs_nat_slirp_free(w->nat);
    qs_queue_free(w->kept);
    g_free(w->settings);
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) parser = g_option_context_new("- the NAT of one guest");
    g_autoptr(GArray) fds = g_array_new(FALSE, TRUE, sizeof(GPollFD));
    g_autoptr(GError) error = NULL;
    GMainContext *context = g_main_context_default();
    Worker w = { .data_listener = -1, .ctl_listener = -1 };

    qs_log_init("quasar-relay-nat", QS_LOG_PEER);
    g_option_context_add_main_entries(parser, options, NULL);
    g_option_context_set_summary(parser, "Started by quasar-relayd; of no use by hand.");
    /* What stops the relay by the keyboard is not for us. */
    setsid();
    signal(SIGPIPE, SIG_IGN);
    if (!g_option_context_parse(parser, &argc, &argv, &error) || !start(&w, &error)) {
        g_printerr("error: %s\n", error->message);
        return 1;
    }
    if (!g_main_context_acquire(context)) {
        g_printerr("error: the main context is in use\n");
        return 1;
    }
    tell_ready();
    while (!w.quit) {
        turn(&w, context, fds);
    }
    stop(&w, context);
    return 0;
}
