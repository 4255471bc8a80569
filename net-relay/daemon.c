/* SPDX-License-Identifier: GPL-2.0-or-later */
/* quasar-relayd: see quasar-relayd(1). */
#include "attach.h"
#include "config.h"
#include "control.h"
#include "lines.h"
#include "log.h"
#include "metrics_file.h"
#include "passed.h"
#include "relay.h"
#include "sandbox.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DESCRIPTORS 65536
/* Last words to links, before the process ends. */
#define FAREWELL_MS 300

typedef struct Daemon {
    QsConfig *config;
    QsRelay *relay;
    QsAttach *attach;
    QsControl *control;
    QsMetricsFile *metrics_file;
    GMainLoop *loop;
    bool filtered; /* system calls */
    bool again;    /* start the program anew */
    bool stopping;
} Daemon;

static char *opt_config, *opt_metrics_file, *opt_tls_cert_dir;
static char **opt_set;
static gboolean opt_check;

static const GOptionEntry options[] = {
    { "config", 'c', 0, G_OPTION_ARG_FILENAME, &opt_config, "configuration file", "FILE" },
    { "set", 's', 0, G_OPTION_ARG_STRING_ARRAY, &opt_set, "one setting, as in the file",
      "KEY=VALUE" },
    { "metrics-file", 0, 0, G_OPTION_ARG_FILENAME, &opt_metrics_file,
      "write metrics there too, for a textfile collector", "FILE" },
    { "tls-cert-dir", 0, 0, G_OPTION_ARG_FILENAME, &opt_tls_cert_dir,
      "take certificates over TLS too, with the files of QEMU's layout there", "DIRECTORY" },
    { "check", 0, 0, G_OPTION_ARG_NONE, &opt_check,
      "check configuration, certificates and identities, then end", NULL },
    G_OPTION_ENTRY_NULL,
};

static bool read_config(QsConfig *config, GError **error)
{
    if (opt_config != NULL && !qs_config_load(config, opt_config, error)) {
        return false;
    }
    for (guint i = 0; opt_set != NULL && opt_set[i] != NULL; i++) {
        char *equal = strchr(opt_set[i], '=');

        if (equal == NULL) {
            g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE, "--set %s: not KEY=VALUE",
                        opt_set[i]);
            return false;
        }
        *equal = '\0';
        if (!qs_config_set(config, opt_set[i], equal + 1, error)) {
            return false;
        }
        *equal = '=';
    }
    if (opt_metrics_file != NULL &&
        !qs_config_set(config, "metrics-file", opt_metrics_file, error)) {
        return false;
    }
    if (opt_tls_cert_dir != NULL &&
        !qs_config_set(config, "tls-cert-dir", opt_tls_cert_dir, error)) {
        return false;
    }
    return qs_config_finish(config, error);
}

/* The line that systemd waits for with Type=notify. */
static void notify(const char *text)
{
    const char *path = g_getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    gsize size = path == NULL ? 0 : strlen(path);
    int fd;

    if (size == 0 || size >= sizeof(address.sun_path)) {
        return;
    }
    memcpy(address.sun_path, path, size);
    if (path[0] == '@') {
        address.sun_path[0] = '\0';
    }
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0) {
        sendto(fd, text, strlen(text), MSG_NOSIGNAL, (struct sockaddr *)&address,
               (socklen_t)(G_STRUCT_OFFSET(struct sockaddr_un, sun_path) + size));
        close(fd);
    }
}

/* Whoever ends the process does not want it started anew. */
static gboolean on_stop(gpointer data)
{
    Daemon *d = data;

    d->again = false;
    g_main_loop_quit(d->loop);
    return G_SOURCE_CONTINUE;
}

static gboolean on_reload(gpointer data)
{
    Daemon *d = data;
    g_autoptr(GError) error = NULL;

    if (!d->stopping && !qs_relay_reload(d->relay, &error)) {
        qs_log(QS_LOG_ERROR, "reload-failed", "text=\"%s\"", error->message);
    }
    return G_SOURCE_CONTINUE;
}

static void on_control(QsControlWish wish, void *opaque)
{
    Daemon *d = opaque;

    d->again = wish == QS_CONTROL_RESTART;
    g_main_loop_quit(d->loop);
}

static bool take_passed(Daemon *d, GError **error)
{
    g_auto(GStrv) names = qs_passed_names(error);

    return names != NULL && qs_attach_take_passed(d->attach, names, error);
}

static bool start(Daemon *d, GError **error)
{
    if (!read_config(d->config, error)) {
        return false;
    }
    qs_log_init("quasar-relayd", d->config->log_level);
    if (!qs_sandbox_give_up(error) || !qs_sandbox_limit(DESCRIPTORS, 0, error)) {
        return false;
    }
    /* Before anything is made that a signal would leave behind, and before the filter: GLib starts
     * a thread for these. */
    g_unix_signal_add(SIGTERM, on_stop, d);
    g_unix_signal_add(SIGINT, on_stop, d);
    g_unix_signal_add(SIGHUP, on_reload, d);
    d->relay = qs_relay_new(d->config, error);
    if (d->relay == NULL) {
        return false;
    }
    d->attach = qs_attach_new(d->relay, error);
    if (d->attach == NULL || !take_passed(d, error)) {
        return false;
    }
    d->control = qs_control_new(d->relay, d->attach, on_control, d, error);
    if (d->control == NULL) {
        return false;
    }
    if (d->config->metrics_file != NULL) {
        d->metrics_file = qs_metrics_file_new(d->relay, d->attach, error);
        if (d->metrics_file == NULL) {
            return false;
        }
    }
    return !d->config->seccomp || qs_sandbox_filter(QS_SANDBOX_DAEMON, &d->filtered, error);
}

static gboolean farewell_over(gpointer data)
{
    *(bool *)data = true;
    return G_SOURCE_REMOVE;
}

static void stop(Daemon *d)
{
    bool over = false;
    guint timer = 0;

    d->stopping = true;
    qs_metrics_file_free(d->metrics_file);
    qs_control_free(d->control);
    if (d->attach != NULL) {
        qs_attach_stop_listening(d->attach);
    }
    /* While the last words are on their way, handshakes may still ask who is known: nobody. */
    if (d->relay != NULL) {
        qs_relay_say_goodbye(d->relay);
        timer = g_timeout_add(FAREWELL_MS, farewell_over, &over);
        while (!over && qs_stream_flushing() + qs_lines_finishing() > 0) {
            g_main_context_iteration(NULL, TRUE);
        }
        if (!over) {
            g_source_remove(timer);
        }
    }
    qs_attach_free(d->attach);
    qs_relay_free(d->relay);
}

static int check_only(Daemon *d, GError **error)
{
    g_autoptr(GHashTable) identities = NULL;
    g_autoptr(QsCerts) certs = NULL;

    if (!read_config(d->config, error)) {
        return 1;
    }
    qs_log_init("quasar-relayd", d->config->log_level);
    if (d->config->tls_cert_dir != NULL) {
        certs = qs_certs_load(d->config->tls_cert_dir, error);
        if (certs == NULL) {
            return 1;
        }
    }
    identities = qs_identity_load(d->config->identities, error);
    if (identities == NULL) {
        return 1;
    }
    g_print("%u identities\n", g_hash_table_size(identities));
    return 0;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) parser = g_option_context_new("- the network relay");
    g_auto(GStrv) arguments = g_strdupv(argv);
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autoptr(GError) error = NULL;
    Daemon d = { 0 };
    int status = 0;

    g_option_context_add_main_entries(parser, options, NULL);
    if (!g_option_context_parse(parser, &argc, &argv, &error)) {
        g_printerr("error: %s\n", error->message);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    d.config = qs_config_new();
    d.loop = g_main_loop_new(NULL, FALSE);
    if (opt_check) {
        status = check_only(&d, &error);
    } else if (start(&d, &error)) {
        qs_log(QS_LOG_INFO, "ready", "control=%s filtered=%d", d.config->control, d.filtered);
        notify("READY=1\n");
        g_main_loop_run(d.loop);
        notify(d.again ? "RELOADING=1\n" : "STOPPING=1\n");
        qs_log(QS_LOG_INFO, d.again ? "restarting" : "stopping", "pid=%d", (int)getpid());
    } else {
        status = 1;
    }
    if (error != NULL) {
        g_printerr("error: %s\n", error->message);
    }
    stop(&d);
    if (d.again && self != NULL) {
        /* The same process goes on with whatever program stands there now. */
        execv(self, arguments);
        g_printerr("error: cannot start %s again: %s\n", self, g_strerror(errno));
        status = 1;
    }
    g_main_loop_unref(d.loop);
    qs_config_free(d.config);
    return status;
}
