/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "move/remote.h"

#include "move/talk.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOST_MAX 255
#define END_MS 3000

struct QsRemote {
    QsLines *lines;
    GPid pid;
    bool ended; /* and was waited for */
    int status;
};

bool qs_remote_check_host(const char *host, GError **error)
{
    bool good = *host != '\0' && *host != '-' && strlen(host) <= HOST_MAX;

    for (const char *at = host; good && *at != '\0'; at++) {
        good = g_ascii_isalnum(*at) || strchr("@.:%_-[]", *at) != NULL;
    }
    return good ||
           qs_fail(error, QS_VM_ERROR_USAGE, NULL, "[USER@]HOST, as for ssh", "this is no host");
}

static char **parse_rsh(const char *rsh, GError **error)
{
    g_autoptr(GError) own = NULL;
    char **parts = NULL;

    if (!g_shell_parse_argv(rsh, NULL, &parts, &own)) {
        qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "--rsh: %s", own->message);
    }
    return parts;
}

char *qs_remote_via(const char *rsh, const char *via, bool *ret_nested, GError **error)
{
    g_auto(GStrv) parts = parse_rsh(rsh, error);
    g_autofree char *program = parts == NULL ? NULL : g_path_get_basename(parts[0]);
    g_autofree char *host = g_shell_quote(via);
    g_autofree char *inner = g_shell_quote(rsh);

    if (program == NULL) {
        return NULL;
    }
    *ret_nested = !g_str_equal(program, "ssh");
    return *ret_nested ? g_strdup_printf("%s %s %s", rsh, host, inner)
                       : g_strdup_printf("%s -J %s", rsh, host);
}

char **qs_remote_argv(const char *rsh, const char *host, const char *const *words, GError **error)
{
    g_autoptr(GStrvBuilder) line = g_strv_builder_new();
    g_auto(GStrv) parts = parse_rsh(rsh, error);

    if (parts == NULL) {
        return NULL;
    }
    g_strv_builder_addv(line, (const char **)parts);
    g_strv_builder_add_many(line, host, "quasar-run", "receive", NULL);
    g_strv_builder_addv(line, (const char **)words);
    return g_strv_builder_end(line);
}

QsRemote *qs_remote_open(const char *rsh, const char *host, const char *net, GError **error)
{
    /* ssh joins its words to a line for a shell. */
    g_autofree char *quoted = net == NULL ? NULL : g_shell_quote(net);
    const char *words[] = { net == NULL ? NULL : "--net", quoted, NULL };
    g_auto(GStrv) argv = qs_remote_argv(rsh, host, words, error);
    g_autofree char *peer = g_strdup_printf("the launcher on %s", host);
    g_autoptr(GError) own = NULL;
    QsRemote remote = { .ended = false };
    int in, out;
    QsRemote *made;

    if (argv == NULL) {
        return NULL;
    }
    if (!g_spawn_async_with_pipes(NULL, argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD,
                                  NULL, NULL, &remote.pid, &in, &out, NULL, &own)) {
        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "--rsh names another command", "%s",
                own->message);
        return NULL;
    }
    remote.lines = qs_lines_new(out, in, QS_TALK_LINE_MAX, peer);
    made = g_new(QsRemote, 1);
    *made = remote;
    return made;
}

QsLines *qs_remote_lines(QsRemote *remote)
{
    return remote->lines;
}

bool qs_remote_has_ended(QsRemote *remote, int *ret_status)
{
    struct pollfd ended = { .events = POLLIN };

    if (!remote->ended) {
        /* Our own child: its number is not another's until we have waited for it. */
        ended.fd = (int)syscall(SYS_pidfd_open, remote->pid, 0);
        if (ended.fd >= 0) {
            remote->ended = poll(&ended, 1, END_MS) > 0 &&
                            waitpid(remote->pid, &remote->status, 0) == remote->pid;
            close(ended.fd);
        }
    }
    if (remote->ended) {
        *ret_status = WIFEXITED(remote->status) ? WEXITSTATUS(remote->status) : -1;
    }
    return remote->ended;
}

void qs_remote_close(QsRemote *remote)
{
    int status;

    if (remote == NULL) {
        return;
    }
    qs_lines_free(remote->lines);
    if (!qs_remote_has_ended(remote, &status)) {
        kill(remote->pid, SIGKILL);
        waitpid(remote->pid, NULL, 0);
    }
    g_spawn_close_pid(remote->pid);
    g_free(remote);
}

char *qs_remote_address(const char *host, const char *address, GCancellable *cancellable,
                        GError **error)
{
    const char *user = strrchr(host, '@');
    const char *name = address != NULL ? address : user != NULL ? user + 1 : host;
    g_autoptr(GResolver) resolver = g_resolver_get_default();
    g_autoptr(GError) own = NULL;
    GList *found = g_resolver_lookup_by_name(resolver, name, cancellable, &own);
    GInetAddress *chosen = NULL;
    char *text;

    for (GList *at = found; at != NULL; at = at->next) {
        if (chosen == NULL || (g_inet_address_get_family(chosen) != G_SOCKET_FAMILY_IPV4 &&
                               g_inet_address_get_family(at->data) == G_SOCKET_FAMILY_IPV4)) {
            chosen = at->data;
        }
    }
    if (chosen == NULL) {
        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "--data-address names an address of that host",
                "%s has no address: %s", name, own == NULL ? "nothing found" : own->message);
        return NULL;
    }
    text = g_inet_address_to_string(chosen);
    g_resolver_free_addresses(found);
    return text;
}

GSocketConnection *qs_remote_connect(const char *address, guint16 port, guint seconds,
                                     GCancellable *cancellable, GError **error)
{
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GSocketAddress) where = g_inet_socket_address_new_from_string(address, port);
    g_autoptr(GError) own = NULL;
    GSocketConnection *made = NULL;

    g_socket_client_set_timeout(client, seconds);
    g_socket_client_set_enable_proxy(client, FALSE);
    if (where != NULL) {
        made = g_socket_client_connect(client, G_SOCKET_CONNECTABLE(where), cancellable, &own);
    }
    if (made == NULL) {
        qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "port %u of %s cannot be reached: %s", port,
                address, own == NULL ? "this is no address" : own->message);
        return NULL;
    }
    return made;
}
