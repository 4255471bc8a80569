/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/relay.h"

#include "qmp/qmp.h"

#include <gio/gunixsocketaddress.h>
#include <string.h>
#include <unistd.h>

static GSocketConnectable *address_of(const QsRelay *relay)
{
    return *relay->path != '\0' ? G_SOCKET_CONNECTABLE(g_unix_socket_address_new(relay->path))
                                : g_network_address_new(relay->host, (guint16)relay->port);
}

bool qs_relay_reach(const QsRelay *relay, guint wait_ms, GCancellable *cancellable, GError **error)
{
    g_autoptr(GSocketConnectable) address = address_of(relay);
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GError) own = NULL;
    g_autoptr(GSocketConnection) connection = NULL;
    g_autofree char *where = NULL;

    g_socket_client_set_enable_proxy(client, FALSE);
    g_socket_client_set_timeout(client, MAX(wait_ms / 1000, 1));
    connection = g_socket_client_connect(client, address, cancellable, &own);
    if (connection != NULL) {
        return true;
    }
    where = qs_relay_where(relay);
    return qs_fail(error,
                   g_error_matches(own, G_IO_ERROR, G_IO_ERROR_CANCELLED) ? QS_VM_ERROR_CANCELLED
                                                                          : QS_VM_ERROR_REFUSED,
                   NULL, "let it be reached from there, or --net names another address of it",
                   "the relay %s cannot be reached: %s", where, own->message);
}

static const char *static_state(const char *word)
{
    static const char *const states[] = { "idle",     "connecting", "greeting",
                                          "attached", "waiting",    "ended" };

    for (guint i = 0; word != NULL && i < G_N_ELEMENTS(states); i++) {
        if (g_str_equal(word, states[i])) {
            return states[i];
        }
    }
    return NULL;
}

static bool query(QsQmp *qmp, gint64 deadline, QsRelayInfo *ret_info)
{
    g_autoptr(JsonNode) node =
        qs_qmp_execute(qmp, "query-relay-netdevs", NULL, deadline, NULL, NULL);
    JsonArray *list =
        node != NULL && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    JsonNode *first =
        list != NULL && json_array_get_length(list) > 0 ? json_array_get_element(list, 0) : NULL;
    JsonObject *one =
        first != NULL && JSON_NODE_HOLDS_OBJECT(first) ? json_node_get_object(first) : NULL;
    QsRelayInfo info = { 0 };
    const char *reason;

    info.state = one == NULL ? NULL : static_state(qs_json_get_string(one, "state", NULL));
    if (info.state == NULL || !qs_json_get_u64(one, "epoch", &info.epoch, NULL)) {
        return false;
    }
    reason = qs_json_get_string(one, "reason", NULL);
    if (reason != NULL) {
        g_autofree char *line = qs_fail_line(reason);
        g_autofree char *cut = g_utf8_substring(line, 0, MIN(g_utf8_strlen(line, -1), 120));

        g_strlcpy(info.reason, cut, sizeof(info.reason));
    }
    *ret_info = info;
    return true;
}

/* It is told when that changes; a card that is idle waits for the guest. */
static bool is_settled(const QsRelayInfo *info)
{
    return g_str_equal(info->state, "attached") || g_str_equal(info->state, "idle") ||
           *info->reason != '\0';
}

bool qs_relay_ask(QsVm *vm, guint wait_ms, bool settle, QsRelayInfo *ret_info)
{
    static const char *const names[] = { "RELAY_NETDEV_STATE", NULL };
    gint64 deadline = qs_qmp_deadline(wait_ms);
    int fd = qs_vm_connect(vm, "query", NULL);
    g_autoptr(QsQmp) qmp = fd < 0 ? NULL : qs_qmp_open(fd, deadline, NULL, NULL);
    bool known = qmp != NULL && query(qmp, deadline, ret_info);

    while (known && settle && !is_settled(ret_info)) {
        g_autoptr(QsQmpEvent) event = qs_qmp_wait_event(qmp, names, deadline, NULL, NULL);

        if (event == NULL) {
            break;
        }
        known = query(qmp, deadline, ret_info);
    }
    return known;
}

/* By the reasons of the relay's protocol, which the card repeats in brackets. */
static const struct {
    const char *reason, *words, *hint;
} refusals[] = {
    { "(denied)", "it has no such identity, or another secret for it",
      "quasar-run set %s relay-secret=FILE and a new start; quasar-relayctl identity list there" },
    { "TLS", "it has no such identity, or another secret for it, or does not speak TLS there",
      "quasar-run set %s relay-secret=FILE and a new start; quasar-relayctl identity list there" },
    { "(stale)", "a later copy of this VM was attached",
      "if there is none any more, stop --force %s and start it anew" },
    { "(taken-over)", "a later copy of this VM took the port over",
      "stop --force %s, or the other one" },
    { "(in-use)", "another VM is attached under that identity",
      "stop that one, or quasar-run set %s net= with an identity of its own" },
    { "(draining)", "it takes no new guests", "quasar-relayctl undrain there, or another relay" },
    { "(mac)", "the identity has another MAC address",
      "quasar-run set %s mac= with that, and a new start" },
    { "(removed)", "the identity was removed", "quasar-relayctl identity add there" },
};

bool qs_relay_explain(const QsVm *vm, const QsRelay *relay, const QsRelayInfo *info,
                      char **ret_words, char **ret_hint)
{
    g_autofree char *where = qs_relay_where(relay);
    g_autofree char *key = qs_relay_key(relay);

    if (g_str_equal(info->state, "attached") || *info->reason == '\0') {
        return false;
    }
    for (guint i = 0; i < G_N_ELEMENTS(refusals); i++) {
        if (strstr(info->reason, refusals[i].reason) != NULL) {
            g_auto(GStrv) parts = g_strsplit(refusals[i].hint, "%s", 2);

            *ret_words =
                g_strdup_printf("the relay %s does not take %s: %s", where, key, refusals[i].words);
            *ret_hint = g_strjoinv(qs_vm_name(vm), parts);
            return true;
        }
    }
    *ret_words = g_strdup_printf("the relay %s is not reached: %s", where, info->reason);
    *ret_hint = g_strdup(g_str_equal(info->state, "ended") ? "a new start tries again"
                                                           : "it is tried again all the time");
    return true;
}
