/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "control.h"

#include "lines.h"
#include "log.h"
#include "net.h"
#include "report.h"

#include <gio/gio.h>
#include <glib-unix.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <unistd.h>

#define CLIENTS_MAX 16
#define LINE_MAX_SIZE 4096
#define OUTPUT_MAX (16 * 1024 * 1024)
/* The parser recurses; nothing we are asked nests. */
#define NESTING_MAX 8
#define CAPTURE_DEFAULT_MIB 64
#define CAPTURE_MAX_MIB 65536
#define METRICS_CLIENTS_MAX 16
#define METRICS_TIMEOUT_S 5

struct QsControl {
    QsRelay *relay;
    QsAttach *attach;
    QsControlWished wished;
    void *opaque;
    int fd;
    guint tag;
    int metrics_fd;
    guint metrics_tag;
    GHashTable *clients; /* set of Client */
};

/* Kept alive by the question that is under way to a worker. */
typedef struct Client {
    gatomicrefcount refs;
    QsControl *control;
    QsLines *lines; /* NULL: gone */
    bool http;
    guint timer;
} Client;

typedef struct Request {
    Client *client;
    JsonObject *object;
    JsonNode *root;
    bool has_id;
    gint64 id;
} Request;

static void client_unref(Client *client)
{
    if (g_atomic_ref_count_dec(&client->refs)) {
        g_free(client);
    }
}

static void client_drop(gpointer data)
{
    Client *client = data;

    g_clear_handle_id(&client->timer, g_source_remove);
    if (client->lines != NULL) {
        g_clear_pointer(&client->lines, qs_lines_finish);
    }
    client_unref(client);
}

/* --- answers --- */

static void request_free(Request *request)
{
    client_unref(request->client);
    json_node_unref(request->root);
    g_free(request);
}

static JsonBuilder *begin(const Request *request, bool ok)
{
    JsonBuilder *b = json_builder_new();

    json_builder_begin_object(b);
    if (request != NULL && request->has_id) {
        json_builder_set_member_name(b, "id");
        json_builder_add_int_value(b, request->id);
    }
    json_builder_set_member_name(b, "ok");
    json_builder_add_boolean_value(b, ok);
    json_builder_set_member_name(b, ok ? "result" : "error");
    return b;
}

static void send_built(Client *client, JsonBuilder *builder)
{
    g_autoptr(JsonGenerator) generator = json_generator_new();
    g_autoptr(JsonNode) root = NULL;
    g_autofree char *text = NULL;
    g_autofree char *line = NULL;

    json_builder_end_object(builder);
    root = json_builder_get_root(builder);
    json_generator_set_root(generator, root);
    text = json_generator_to_data(generator, NULL);
    line = g_strconcat(text, "\n", NULL);
    if (client->lines != NULL) {
        qs_lines_send(client->lines, line, -1);
    }
    g_object_unref(builder);
}

static void send_error(Client *client, const Request *request, const char *text)
{
    JsonBuilder *b = begin(request, false);
    g_autofree char *valid = g_utf8_make_valid(text, -1);

    json_builder_add_string_value(b, valid);
    send_built(client, b);
}

static void send_done(Client *client, const Request *request)
{
    JsonBuilder *b = begin(request, true);

    json_builder_add_null_value(b);
    send_built(client, b);
}

/* --- commands --- */

static const char *text_member(Request *request, const char *name)
{
    JsonNode *node = json_object_get_member(request->object, name);

    return node != NULL && JSON_NODE_HOLDS_VALUE(node) &&
                   json_node_get_value_type(node) == G_TYPE_STRING
               ? json_node_get_string(node)
               : NULL;
}

static QsPort *find_port(Request *request)
{
    const char *key = text_member(request, "identity");
    QsPort *port = key == NULL ? NULL : qs_relay_port(request->client->control->relay, key);
    g_autofree char *text = NULL;

    if (port == NULL) {
        g_autofree char *shown = g_strescape(key != NULL ? key : "", NULL);

        text = key == NULL ? g_strdup("\"identity\" is missing")
                           : g_strdup_printf("there is no identity \"%.80s\"", shown);
        send_error(request->client, request, text);
    }
    return port;
}

static QsNat *find_nat(Request *request)
{
    QsPort *port = find_port(request);

    if (port == NULL) {
        return NULL;
    }
    if (qs_port_nat(port) == NULL) {
        send_error(request->client, request, "the identity has no NAT");
    }
    return qs_port_nat(port);
}

static void cmd_status(Request *request)
{
    QsControl *c = request->client->control;
    JsonBuilder *b = begin(request, true);

    qs_report_status(b, c->relay, c->attach);
    send_built(request->client, b);
    request_free(request);
}

static void cmd_ports(Request *request)
{
    JsonBuilder *b = begin(request, true);

    qs_report_ports(b, request->client->control->relay);
    send_built(request->client, b);
    request_free(request);
}

static void cmd_metrics(Request *request)
{
    QsControl *c = request->client->control;
    JsonBuilder *b = begin(request, true);
    g_autofree char *text = qs_report_metrics(c->relay, c->attach);

    json_builder_add_string_value(b, text);
    send_built(request->client, b);
    request_free(request);
}

/* "ok ..." to what stands behind it; NULL when the worker said no, which is told. */
static const char *check_reply(Request *request, const char *reply)
{
    if (reply == NULL) {
        send_error(
            request->client, request,
            "the NAT worker of this identity is not there; it starts when the guest attaches");
        return NULL;
    }
    if (!g_str_has_prefix(reply, "ok")) {
        send_error(request->client, request,
                   g_str_has_prefix(reply, "error ") ? reply + strlen("error ") : reply);
        return NULL;
    }
    return reply[2] == ' ' ? reply + 3 : reply + 2;
}

static void got_flows(const char *reply, void *opaque)
{
    Request *request = opaque;
    const char *table = check_reply(request, reply);

    if (table != NULL) {
        JsonBuilder *b = begin(request, true);

        qs_report_flows(b, table);
        send_built(request->client, b);
    }
    request_free(request);
}

static void cmd_flows(Request *request)
{
    QsNat *nat = find_nat(request);

    if (nat == NULL) {
        request_free(request);
        return;
    }
    qs_nat_ask(nat, "flows", got_flows, request);
}

static void got_forwards(const char *reply, void *opaque)
{
    Request *request = opaque;
    const char *list = check_reply(request, reply);

    if (list != NULL) {
        g_auto(GStrv) items = g_strsplit(list, " ", -1);
        JsonBuilder *b = begin(request, true);

        json_builder_begin_array(b);
        for (guint i = 0; items[i] != NULL; i++) {
            if (*items[i] != '\0') {
                json_builder_add_string_value(b, items[i]);
            }
        }
        json_builder_end_array(b);
        send_built(request->client, b);
    }
    request_free(request);
}

static void cmd_forward_list(Request *request)
{
    QsNat *nat = find_nat(request);

    if (nat == NULL) {
        request_free(request);
        return;
    }
    qs_nat_ask(nat, "forward list", got_forwards, request);
}

static void got_forward_done(const char *reply, void *opaque)
{
    Request *request = opaque;

    if (check_reply(request, reply) != NULL) {
        send_done(request->client, request);
    }
    request_free(request);
}

static void change_forward(Request *request, const char *verb)
{
    const char *spec = text_member(request, "forward");
    QsNat *nat = find_nat(request);
    g_autoptr(GError) error = NULL;
    g_autofree char *line = NULL;
    char text[QS_FORWARD_TEXT];
    QsForward f;

    if (nat == NULL) {
        request_free(request);
        return;
    }
    if (!qs_forward_parse(spec != NULL ? spec : "", &f, &error)) {
        send_error(request->client, request, error->message);
        request_free(request);
        return;
    }
    line = g_strdup_printf("forward %s %s", verb, qs_forward_format(&f, text));
    qs_nat_ask(nat, line, got_forward_done, request);
}

static void cmd_forward_add(Request *request)
{
    change_forward(request, "add");
}

static void cmd_forward_del(Request *request)
{
    change_forward(request, "del");
}

static void cmd_detach(Request *request)
{
    QsPort *port = find_port(request);

    if (port != NULL) {
        qs_port_detach(port, QS_RELAY_REASON_SHUTDOWN, "detached by the operator");
        send_done(request->client, request);
    }
    request_free(request);
}

static gint64 number_member(Request *request, const char *name, gint64 otherwise)
{
    JsonNode *node = json_object_get_member(request->object, name);

    return node != NULL && JSON_NODE_HOLDS_VALUE(node) &&
                   json_node_get_value_type(node) == G_TYPE_INT64
               ? json_node_get_int(node)
               : otherwise;
}

static void cmd_pcap_start(Request *request)
{
    QsPort *port = find_port(request);
    gint64 mib = number_member(request, "mib", CAPTURE_DEFAULT_MIB);
    g_autoptr(GError) error = NULL;
    g_autofree char *path = NULL;

    if (port != NULL) {
        path = qs_port_capture(port, (guint64)CLAMP(mib, 1, CAPTURE_MAX_MIB) << 20, &error);
        if (path == NULL) {
            send_error(request->client, request, error->message);
        } else {
            JsonBuilder *b = begin(request, true);

            json_builder_add_string_value(b, path);
            send_built(request->client, b);
        }
    }
    request_free(request);
}

static void cmd_pcap_stop(Request *request)
{
    QsPort *port = find_port(request);

    if (port != NULL) {
        qs_port_capture_stop(port);
        send_done(request->client, request);
    }
    request_free(request);
}

static void cmd_reload(Request *request)
{
    g_autoptr(GError) error = NULL;

    if (qs_relay_reload(request->client->control->relay, &error)) {
        send_done(request->client, request);
    } else {
        send_error(request->client, request, error->message);
    }
    request_free(request);
}

static void drain(Request *request, bool on)
{
    QsRelay *relay = request->client->control->relay;
    g_autoptr(GError) error = NULL;

    if (qs_relay_set_draining(relay, on, &error)) {
        JsonBuilder *b = begin(request, true);

        json_builder_add_int_value(b, qs_relay_present(relay));
        send_built(request->client, b);
    } else {
        send_error(request->client, request, error->message);
    }
    request_free(request);
}

static void cmd_drain(Request *request)
{
    drain(request, true);
}

static void cmd_undrain(Request *request)
{
    drain(request, false);
}

static void wish(Request *request, QsControlWish what)
{
    QsControl *c = request->client->control;

    send_done(request->client, request);
    request_free(request);
    c->wished(what, c->opaque);
}

static void cmd_restart(Request *request)
{
    wish(request, QS_CONTROL_RESTART);
}

static void cmd_stop(Request *request)
{
    wish(request, QS_CONTROL_STOP);
}

/* Each frees the request, at once or when the answer is there. */
static const struct {
    const char *name;
    void (*run)(Request *request);
} commands[] = {
    { "status", cmd_status },
    { "ports", cmd_ports },
    { "flows", cmd_flows },
    { "forward-list", cmd_forward_list },
    { "forward-add", cmd_forward_add },
    { "forward-del", cmd_forward_del },
    { "detach", cmd_detach },
    { "pcap-start", cmd_pcap_start },
    { "pcap-stop", cmd_pcap_stop },
    { "metrics", cmd_metrics },
    { "reload", cmd_reload },
    { "drain", cmd_drain },
    { "undrain", cmd_undrain },
    { "restart", cmd_restart },
    { "stop", cmd_stop },
};

static bool nests_too_deep(const char *line)
{
    guint depth = 0;
    bool quoted = false;

    for (const char *p = line; *p != '\0'; p++) {
        if (quoted) {
            if (*p == '\\' && p[1] != '\0') {
                p++;
            } else if (*p == '"') {
                quoted = false;
            }
        } else if (*p == '"') {
            quoted = true;
        } else if (*p == '{' || *p == '[') {
            depth++;
        } else if ((*p == '}' || *p == ']') && depth > 0) {
            depth--;
        }
        if (depth > NESTING_MAX) {
            return true;
        }
    }
    return false;
}

static JsonNode *parse_line(const char *line, GError **error)
{
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonNode *root;

    if (!g_utf8_validate(line, -1, NULL) || nests_too_deep(line)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "not a request");
        return NULL;
    }
    if (!json_parser_load_from_data(parser, line, -1, error)) {
        return NULL;
    }
    root = json_parser_get_root(parser);
    if (root == NULL || !JSON_NODE_HOLDS_OBJECT(root)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                            "a request is a JSON object");
        return NULL;
    }
    return json_node_copy(root);
}

static void run_line(Client *client, const char *line)
{
    g_autoptr(GError) error = NULL;
    JsonNode *root = parse_line(line, &error);
    JsonNode *id;
    Request *request;
    const char *name;

    if (root == NULL) {
        send_error(client, NULL, error->message);
        return;
    }
    request = g_new0(Request, 1);
    g_atomic_ref_count_inc(&client->refs);
    request->client = client;
    request->root = root;
    request->object = json_node_get_object(root);
    id = json_object_get_member(request->object, "id");
    if (id != NULL && JSON_NODE_HOLDS_VALUE(id) && json_node_get_value_type(id) == G_TYPE_INT64) {
        request->has_id = true;
        request->id = json_node_get_int(id);
    }
    name = text_member(request, "command");
    for (guint i = 0; name != NULL && i < G_N_ELEMENTS(commands); i++) {
        if (g_str_equal(name, commands[i].name)) {
            commands[i].run(request);
            return;
        }
    }
    send_error(client, request,
               name == NULL ? "\"command\" is missing" : "there is no such command");
    request_free(request);
}

/* --- metrics over HTTP: whatever is asked, the answer is the metrics --- */

static void answer_http(Client *client)
{
    QsControl *c = client->control;
    g_autofree char *body = qs_report_metrics(c->relay, c->attach);
    g_autofree char *text =
        g_strdup_printf("HTTP/1.0 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
                        "Content-Length: %" G_GSIZE_FORMAT "\r\nConnection: close\r\n\r\n%s",
                        strlen(body), body);

    qs_lines_send(client->lines, text, -1);
    g_hash_table_remove(c->clients, client);
}

/* --- clients --- */

static void client_line(QsLines *lines, char *line, void *opaque)
{
    Client *client = opaque;

    (void)lines;
    if (!client->http) {
        run_line(client, line);
    } else if (*line == '\0' || g_str_equal(line, "\r")) {
        /* The end of the request's head. */
        answer_http(client);
    }
}

static void client_closed(QsLines *lines, const char *why, void *opaque)
{
    Client *client = opaque;

    (void)lines;
    if (why != NULL) {
        qs_log(QS_LOG_PEER, "control-failed", "text=\"%s\"", why);
    }
    client->lines = NULL;
    g_hash_table_remove(client->control->clients, client);
}

static const QsLinesOps client_ops = { .line = client_line, .closed = client_closed };

static gboolean client_timeout(gpointer data)
{
    Client *client = data;

    client->timer = 0;
    g_hash_table_remove(client->control->clients, client);
    return G_SOURCE_REMOVE;
}

static void take(QsControl *c, int fd, bool http)
{
    Client *client;

    if (fd < 0) {
        return;
    }
    if ((!http && !qs_net_peer_is_us(fd)) ||
        g_hash_table_size(c->clients) >= CLIENTS_MAX + METRICS_CLIENTS_MAX) {
        close(fd);
        return;
    }
    client = g_new0(Client, 1);
    g_atomic_ref_count_init(&client->refs);
    client->control = c;
    client->http = http;
    client->lines = qs_lines_new(fd, LINE_MAX_SIZE, OUTPUT_MAX, &client_ops, client);
    if (http) {
        client->timer = g_timeout_add_seconds(METRICS_TIMEOUT_S, client_timeout, client);
    }
    g_hash_table_add(c->clients, client);
}

static gboolean control_ready(gint fd, GIOCondition condition, gpointer data)
{
    (void)condition;
    take(data, qs_net_accept(fd, NULL), false);
    return G_SOURCE_CONTINUE;
}

static gboolean metrics_ready(gint fd, GIOCondition condition, gpointer data)
{
    (void)condition;
    take(data, qs_net_accept(fd, NULL), true);
    return G_SOURCE_CONTINUE;
}

QsControl *qs_control_new(QsRelay *relay, QsAttach *attach, QsControlWished wished, void *opaque,
                          GError **error)
{
    const QsConfig *config = qs_relay_config(relay);
    QsControl *c = g_new0(QsControl, 1);

    c->relay = relay;
    c->attach = attach;
    c->wished = wished;
    c->opaque = opaque;
    c->metrics_fd = -1;
    c->clients = g_hash_table_new_full(NULL, NULL, client_drop, NULL);
    c->fd = qs_net_listen_unix(config->control, 0600, error);
    if (c->fd < 0) {
        qs_control_free(c);
        return NULL;
    }
    c->tag = g_unix_fd_add(c->fd, G_IO_IN, control_ready, c);
    if (config->metrics != NULL) {
        g_autofree char *where = NULL;

        c->metrics_fd = qs_net_listen_tcp(config->metrics, true, error);
        if (c->metrics_fd < 0) {
            qs_control_free(c);
            return NULL;
        }
        c->metrics_tag = g_unix_fd_add(c->metrics_fd, G_IO_IN, metrics_ready, c);
        where = qs_net_local_name(c->metrics_fd);
        qs_log(QS_LOG_INFO, "listening", "kind=metrics where=%s", where);
    }
    return c;
}

void qs_control_free(QsControl *c)
{
    if (c == NULL) {
        return;
    }
    g_hash_table_unref(c->clients);
    g_clear_handle_id(&c->tag, g_source_remove);
    g_clear_handle_id(&c->metrics_tag, g_source_remove);
    if (c->fd >= 0) {
        close(c->fd);
        unlink(qs_relay_config(c->relay)->control);
    }
    if (c->metrics_fd >= 0) {
        close(c->metrics_fd);
    }
    g_free(c);
}
