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

static char **make_argv(const char *rsh, const char *host, const char *net, GError **error)
{
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();
    g_autoptr(GError) own = NULL;
    g_auto(GStrv) parts = NULL;

    if (!g_shell_parse_argv(rsh, NULL, &parts, &own)) {
        qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "--rsh: %s", own->message);
        return NULL;
    }
    g_strv_builder_addv(words, (const char **)parts);
    g_strv_builder_add_many(words, host, "quasar-run", "receive", NULL);
    if (net != NULL) {
        /* ssh joins its words to a line for a shell. */
        g_autofree char *quoted = g_shell_quote(net);

        g_strv_builder_add_many(words, "--net", quoted, NULL);
    }
    return g_strv_builder_end(words);
}

QsRemote *qs_remote_open(const char *rsh, const char *host, const char *net, GError **error)
{
    g_auto(GStrv) argv = make_argv(rsh, host, net, error);
    g_autofree char *peer = g_strdup_printf("the launcher on %s", host);
    g_autoptr(GError) own = NULL;
    QsRemote remote;
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

void qs_remote_close(QsRemote *remote)
{
    struct pollfd ended = { .events = POLLIN };

    if (remote == NULL) {
        return;
    }
    qs_lines_free(remote->lines);
    /* Our own child: its number is not another's until we have waited for it. */
    ended.fd = (int)syscall(SYS_pidfd_open, remote->pid, 0);
    if (ended.fd < 0 || poll(&ended, 1, END_MS) <= 0) {
        kill(remote->pid, SIGKILL);
    }
    if (ended.fd >= 0) {
        close(ended.fd);
    }
    waitpid(remote->pid, NULL, 0);
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
