/* SPDX-License-Identifier: GPL-2.0-or-later */
/* quasar-relayctl: see quasar-relayctl(1). */
#include "config.h"
#include "idfile.h"
#include "net.h"
#include "relayctl.h"
#include "table.h"

#include <gio/gio.h>
#include <glib-unix.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

/* The exit codes of every tool of Quasar. */
#define EXIT_DONE 0
#define EXIT_FAILED 1
#define EXIT_USAGE 2

#define ANSWER_MAX (64 * 1024 * 1024)
#define ANSWER_TIMEOUT_S 15
#define DRAIN_POLL_US 200000

static char *opt_control, *opt_config, *opt_identities, *opt_rate;
static gboolean opt_json, opt_off;
static gint opt_wait = -1;
static char **opt_words;

static const GOptionEntry options[] = {
    { "control", 0, 0, G_OPTION_ARG_FILENAME, &opt_control, "the relay's control socket", "PATH" },
    { "config", 'c', 0, G_OPTION_ARG_FILENAME, &opt_config, "the relay's configuration file",
      "FILE" },
    { "identities", 0, 0, G_OPTION_ARG_FILENAME, &opt_identities, "the identities file", "FILE" },
    { "rate", 0, 0, G_OPTION_ARG_STRING, &opt_rate,
      "identity add: bits per second each way, like 10M", "RATE" },
    { "wait", 0, 0, G_OPTION_ARG_INT, &opt_wait, "drain: until no guest is left, at most so long",
      "SECONDS" },
    { "off", 0, 0, G_OPTION_ARG_NONE, &opt_off, "drain: end it, like undrain", NULL },
    { "json", 0, 0, G_OPTION_ARG_NONE, &opt_json, "results as JSON", NULL },
    { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &opt_words, NULL, NULL },
    G_OPTION_ENTRY_NULL,
};

static bool find_paths(GError **error)
{
    g_autoptr(QsConfig) config = qs_config_new();

    if (opt_config != NULL && !qs_config_load(config, opt_config, error)) {
        return false;
    }
    qs_config_default_paths(config);
    if (opt_control == NULL) {
        opt_control = g_strdup(config->control);
    }
    if (opt_identities == NULL) {
        opt_identities = g_strdup(config->identities);
    }
    return true;
}

static char *read_line(int fd, GError **error)
{
    g_autoptr(GString) line = g_string_new(NULL);
    char buffer[65536];

    while (line->len < ANSWER_MAX) {
        ssize_t n = recv(fd, buffer, sizeof(buffer), 0);

        if (n <= 0) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                        n == 0 ? "the relay ended the connection" : "the relay does not answer");
            return NULL;
        }
        g_string_append_len(line, buffer, n);
        if (line->str[line->len - 1] == '\n') {
            return g_string_free(g_steal_pointer(&line), FALSE);
        }
    }
    g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the answer is too long");
    return NULL;
}

static char *ask_socket(const char *request, GError **error)
{
    struct timeval timeout = { .tv_sec = ANSWER_TIMEOUT_S };
    int fd = qs_net_connect_unix(opt_control, error);
    char *line = NULL;

    if (fd < 0) {
        g_prefix_error(error, "is quasar-relayd running? ");
        return NULL;
    }
    g_unix_set_fd_nonblocking(fd, FALSE, NULL);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    if (send(fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "cannot send the request");
    } else {
        line = read_line(fd, error);
    }
    close(fd);
    return line;
}

static char *build_request(const char *command, const char *identity, const char *forward)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(JsonGenerator) generator = json_generator_new();
    g_autoptr(JsonNode) root = NULL;
    g_autofree char *text = NULL;

    json_builder_begin_object(b);
    json_builder_set_member_name(b, "command");
    json_builder_add_string_value(b, command);
    if (identity != NULL) {
        json_builder_set_member_name(b, "identity");
        json_builder_add_string_value(b, identity);
    }
    if (forward != NULL) {
        json_builder_set_member_name(b, "forward");
        json_builder_add_string_value(b, forward);
    }
    json_builder_end_object(b);
    root = json_builder_get_root(b);
    json_generator_set_root(generator, root);
    text = json_generator_to_data(generator, NULL);
    return g_strconcat(text, "\n", NULL);
}

/* The "result" of the answer. */
static JsonNode *ask(const char *command, const char *identity, const char *forward, GError **error)
{
    g_autofree char *request = build_request(command, identity, forward);
    g_autofree char *line = ask_socket(request, error);
    g_autoptr(JsonParser) parser = json_parser_new();
    JsonObject *answer;

    if (line == NULL || !json_parser_load_from_data(parser, line, -1, error)) {
        return NULL;
    }
    if (!JSON_NODE_HOLDS_OBJECT(json_parser_get_root(parser))) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the answer makes no sense");
        return NULL;
    }
    answer = json_node_get_object(json_parser_get_root(parser));
    if (!json_object_get_boolean_member_with_default(answer, "ok", FALSE)) {
        g_set_error_literal(
            error, G_IO_ERROR, G_IO_ERROR_FAILED,
            json_object_get_string_member_with_default(answer, "error", "no reason was given"));
        return NULL;
    }
    return json_node_copy(json_object_get_member(answer, "result"));
}

static void print_json(JsonNode *node)
{
    g_autofree char *text = json_to_string(node, TRUE);

    g_print("%s\n", text);
}

/* --- the commands --- */

static const QsTableColumn port_columns[] = {
    { "identity", "IDENTITY" },
    { "state", "STATE" },
    { "epoch", "EPOCH" },
    { "peer", "PEER" },
    { "address", "ADDRESS" },
    { "nat", "NAT" },
    { "rx-bytes", "RX" },
    { "tx-bytes", "TX" },
    { "tx-dropped", "DROPPED" },
    { "held-bytes", "HELD" },
    { "takeovers", "MOVES" },
    { "rate", "RATE" },
    { NULL, NULL },
};

static const QsTableColumn flow_columns[] = {
    { "protocol", "PROTO" },       { "state", "STATE" },       { "source", "SOURCE" },
    { "source-port", "PORT" },     { "target", "TARGET" },     { "target-port", "PORT" },
    { "receive-queue", "RECV-Q" }, { "send-queue", "SEND-Q" }, { NULL, NULL },
};

static bool show(JsonNode *node, const QsTableColumn *columns)
{
    if (opt_json) {
        print_json(node);
    } else if (columns != NULL) {
        qs_table_print_array(node, columns);
    } else {
        qs_table_print(node);
    }
    return true;
}

static bool ask_and_show(const char *command, const char *identity, const QsTableColumn *columns,
                         GError **error)
{
    g_autoptr(JsonNode) node = ask(command, identity, NULL, error);

    return node != NULL && show(node, columns);
}

static bool ask_only(const char *command, const char *identity, const char *forward, GError **error)
{
    g_autoptr(JsonNode) node = ask(command, identity, forward, error);

    return node != NULL;
}

static bool cmd_status(char **words, GError **error)
{
    (void)words;
    return ask_and_show("status", NULL, NULL, error);
}

static bool cmd_ports(char **words, GError **error)
{
    (void)words;
    return ask_and_show("ports", NULL, port_columns, error);
}

static bool cmd_flows(char **words, GError **error)
{
    return ask_and_show("flows", words[0], flow_columns, error);
}

static bool cmd_metrics(char **words, GError **error)
{
    g_autoptr(JsonNode) node = ask("metrics", NULL, NULL, error);

    (void)words;
    if (node != NULL) {
        g_print("%s", json_node_get_string(node));
    }
    return node != NULL;
}

static bool cmd_forward_list(char **words, GError **error)
{
    return ask_and_show("forward-list", words[0], NULL, error);
}

static bool cmd_forward_add(char **words, GError **error)
{
    return ask_only("forward-add", words[0], words[1], error);
}

static bool cmd_forward_del(char **words, GError **error)
{
    return ask_only("forward-del", words[0], words[1], error);
}

static bool cmd_detach(char **words, GError **error)
{
    return ask_only("detach", words[0], NULL, error);
}

static bool cmd_pcap_start(char **words, GError **error)
{
    g_autoptr(JsonNode) node = ask("pcap-start", words[0], NULL, error);

    if (node != NULL) {
        g_print("%s\n", json_node_get_string(node));
    }
    return node != NULL;
}

static bool cmd_pcap_stop(char **words, GError **error)
{
    return ask_only("pcap-stop", words[0], NULL, error);
}

static bool cmd_reload(char **words, GError **error)
{
    (void)words;
    return ask_only("reload", NULL, NULL, error);
}

static bool cmd_restart(char **words, GError **error)
{
    (void)words;
    return ask_only("restart", NULL, NULL, error);
}

static bool cmd_stop(char **words, GError **error)
{
    (void)words;
    return ask_only("stop", NULL, NULL, error);
}

static bool cmd_undrain(char **words, GError **error)
{
    (void)words;
    return ask_only("undrain", NULL, NULL, error);
}

/* How many guests are left, -1 on failure. To have been undrained meanwhile is one. */
static gint64 count_left(GError **error)
{
    g_autoptr(JsonNode) node = ask("status", NULL, NULL, error);
    JsonObject *status = node == NULL ? NULL : json_node_get_object(node);

    if (status == NULL) {
        return -1;
    }
    if (!json_object_get_boolean_member(status, "draining")) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_CANCELLED,
                            "somebody ended the draining meanwhile");
        return -1;
    }
    return json_object_get_int_member(status, "attached") +
           json_object_get_int_member(status, "paused");
}

static bool cmd_drain(char **words, GError **error)
{
    gint64 end = g_get_monotonic_time() + MAX(opt_wait, 0) * G_USEC_PER_SEC;
    gint64 left;

    if (opt_off) {
        return cmd_undrain(words, error);
    }
    if (!ask_only("drain", NULL, NULL, error)) {
        return false;
    }
    while ((left = count_left(error)) > 0 && g_get_monotonic_time() < end) {
        g_usleep(DRAIN_POLL_US);
    }
    if (left < 0) {
        return false;
    }
    g_print(opt_json ? "{ \"left\" : %" G_GINT64_FORMAT " }\n"
                     : "guests left: %" G_GINT64_FORMAT "\n",
            left);
    if (left > 0 && opt_wait >= 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_TIMED_OUT,
                    "after %d seconds not every guest is gone; the relay goes on draining",
                    opt_wait);
        return false;
    }
    return true;
}

/* A relay that does not run reads the file when it starts. */
static bool reload_if_running(GError **error)
{
    g_autoptr(GError) own = NULL;
    int fd = qs_net_connect_unix(opt_control, NULL);

    if (fd < 0) {
        g_printerr("note: the relay does not run; it reads the file when it starts\n");
        return true;
    }
    close(fd);
    if (ask_only("reload", NULL, NULL, &own)) {
        return true;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                "the file was changed but the relay did not take it: %s", own->message);
    return false;
}

static bool cmd_identity_list(char **words, GError **error)
{
    g_autoptr(JsonNode) node = qs_idfile_list(opt_identities, error);
    static const QsTableColumn columns[] = {
        { "identity", "IDENTITY" },
        { "mac", "MAC" },
        { "address", "ADDRESS" },
        { "mtu", "MTU" },
        { "nat", "NAT" },
        { "rate", "RATE" },
        { "certificate", "CERTIFICATE" },
        { NULL, NULL },
    };

    (void)words;
    return node != NULL && show(node, columns);
}

static bool cmd_identity_add(char **words, GError **error)
{
    g_autoptr(GPtrArray) settings = g_ptr_array_new_with_free_func(g_free);
    g_autofree char *secret = NULL;

    for (char **word = words + 1; *word != NULL; word++) {
        g_ptr_array_add(settings, g_strdup(*word));
    }
    if (opt_rate != NULL) {
        g_ptr_array_add(settings, g_strconcat("rate=", opt_rate, NULL));
    }
    g_ptr_array_add(settings, NULL);
    secret = qs_idfile_add(opt_identities, words[0], (char **)settings->pdata, error);
    if (secret == NULL) {
        return false;
    }
    if (*secret != '\0') {
        g_print("%s\n", secret);
    }
    return reload_if_running(error);
}

static bool cmd_identity_del(char **words, GError **error)
{
    return qs_idfile_del(opt_identities, words[0], error) && reload_if_running(error);
}

static bool cmd_complete(char **words, GError **error);
static bool cmd_completion(char **words, GError **error);

static const QsCtlCommand commands[] = {
    { "status", 0, 0, cmd_status, "", "the relay as a whole" },
    { "ports", 0, 0, cmd_ports, "", "every identity and who is attached" },
    { "flows", 1, 1, cmd_flows, "IDENTITY", "connections in its NAT", { QS_CTL_WORD_IDENTITY } },
    { "forward list",
      1,
      1,
      cmd_forward_list,
      "IDENTITY",
      "its port forwards",
      { QS_CTL_WORD_IDENTITY } },
    { "forward add",
      2,
      2,
      cmd_forward_add,
      "IDENTITY PROTO:ADDRESS:PORT:GUESTPORT",
      "forward a port until the worker ends",
      { QS_CTL_WORD_IDENTITY } },
    { "forward del",
      2,
      2,
      cmd_forward_del,
      "IDENTITY PROTO:ADDRESS:PORT:GUESTPORT",
      "end a forward",
      { QS_CTL_WORD_IDENTITY, QS_CTL_WORD_FORWARD } },
    { "identity list", 0, 0, cmd_identity_list, "", "what the identities file says" },
    { "identity add",
      1,
      32,
      cmd_identity_add,
      "IDENTITY [KEY=VALUE...]",
      "add one, print its new secret",
      { QS_CTL_WORD_TENANT, QS_CTL_WORD_KEY } },
    { "identity del",
      1,
      1,
      cmd_identity_del,
      "IDENTITY",
      "remove one, end its link and NAT",
      { QS_CTL_WORD_IDENTITY } },
    { "detach",
      1,
      1,
      cmd_detach,
      "IDENTITY",
      "end its link; it may come back",
      { QS_CTL_WORD_IDENTITY } },
    { "pcap start",
      1,
      1,
      cmd_pcap_start,
      "IDENTITY",
      "capture its frames, print the file's path",
      { QS_CTL_WORD_IDENTITY } },
    { "pcap stop", 1, 1, cmd_pcap_stop, "IDENTITY", "end the capture", { QS_CTL_WORD_IDENTITY } },
    { "metrics", 0, 0, cmd_metrics, "", "counters as Prometheus text" },
    { "reload", 0, 0, cmd_reload, "", "read identities and certificates again" },
    { "drain", 0, 0, cmd_drain, "", "take nobody new; --wait SECONDS until all are gone" },
    { "undrain", 0, 0, cmd_undrain, "", "end that" },
    { "restart", 0, 0, cmd_restart, "", "start the relay's program anew, keep connections" },
    { "stop", 0, 0, cmd_stop, "", "end the relay; the NAT workers wait for the next" },
    { "completion",
      1,
      1,
      cmd_completion,
      "SHELL",
      "print completion for bash or zsh",
      { QS_CTL_WORD_SHELL } },
    { "complete", 0, 2, cmd_complete, "[identities|tenants|forwards IDENTITY]", NULL },
    { NULL },
};

static void complete_commands(void)
{
    for (const QsCtlCommand *c = commands; c->words != NULL; c++) {
        if (c->help != NULL) {
            g_print("%s\n", c->words);
        }
    }
}

/* Of the relay, or of the file when none runs. */
static JsonNode *known_identities(GError **error)
{
    JsonNode *node = ask("ports", NULL, NULL, NULL);

    return node != NULL ? node : qs_idfile_list(opt_identities, error);
}

static bool complete_identities(bool tenants, GError **error)
{
    g_autoptr(JsonNode) node = known_identities(error);
    JsonArray *rows = node == NULL ? NULL : json_node_get_array(node);
    g_autofree char *last = NULL;

    for (guint i = 0; rows != NULL && i < json_array_get_length(rows); i++) {
        JsonObject *row = json_array_get_object_element(rows, i);
        char *word = g_strdup(json_object_get_string_member_with_default(row, "identity", ""));
        char *slash = strchr(word, '/');

        if (tenants && slash != NULL) {
            slash[1] = '\0';
        }
        /* They are sorted. */
        if (g_strcmp0(word, last) != 0) {
            g_print("%s\n", word);
        }
        g_free(last);
        last = word;
    }
    return rows != NULL;
}

static bool cmd_complete(char **words, GError **error)
{
    if (words[0] == NULL) {
        complete_commands();
        return true;
    }
    if (g_str_equal(words[0], "forwards") && words[1] != NULL) {
        return ask_and_show("forward-list", words[1], NULL, error);
    }
    return complete_identities(g_str_equal(words[0], "tenants"), error);
}

static bool cmd_completion(char **words, GError **error)
{
    g_autofree char *text = NULL;

    if (!g_str_equal(words[0], "bash") && !g_str_equal(words[0], "zsh")) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED,
                    "no completion for \"%.20s\"; hint: bash or zsh", words[0]);
        return false;
    }
    text = qs_ctl_completion(commands, options);
    if (g_str_equal(words[0], "zsh")) {
        g_print("#compdef quasar-relayctl\nautoload -U +X compinit && compinit\n"
                "autoload -U +X bashcompinit && bashcompinit\n");
    }
    g_print("%s", text);
    return true;
}

static char *summary(void)
{
    GString *text = g_string_new("Commands:\n");

    for (const QsCtlCommand *c = commands; c->words != NULL; c++) {
        if (c->help != NULL) {
            g_autofree char *left = g_strdup_printf("%s %s", c->words, c->arguments);

            g_string_append_printf(text, "  %-34s %s\n", left, c->help);
        }
    }
    return g_string_free(text, FALSE);
}

/* The number of words the command's name takes, 0 when it is another. */
static guint match(const char *name, char **words, guint count)
{
    g_auto(GStrv) parts = g_strsplit(name, " ", -1);
    guint length = g_strv_length(parts);

    for (guint i = 0; i < length; i++) {
        if (i >= count || !g_str_equal(parts[i], words[i])) {
            return 0;
        }
    }
    return length;
}

static bool options_fit(const char *command, GError **error)
{
    const struct {
        bool given;
        const char *option, *command;
    } bound[] = {
        { opt_rate != NULL, "--rate", "identity add" },
        { opt_wait >= 0, "--wait", "drain" },
        { opt_off, "--off", "drain" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(bound); i++) {
        if (bound[i].given && !g_str_equal(bound[i].command, command)) {
            g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED, "%s goes with \"%s\" alone",
                        bound[i].option, bound[i].command);
            return false;
        }
    }
    return true;
}

static int run(char **words, GError **error)
{
    guint count = words == NULL ? 0 : g_strv_length(words);
    g_autoptr(GError) own = NULL;
    int status;

    for (const QsCtlCommand *c = commands; c->words != NULL; c++) {
        guint used = match(c->words, words, count);

        if (used == 0) {
            continue;
        }
        if (!options_fit(c->words, error)) {
            return EXIT_USAGE;
        }
        if (count - used < c->least || count - used > c->most) {
            g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED,
                        "usage: quasar-relayctl %s %s", c->words, c->arguments);
            return EXIT_USAGE;
        }
        if (c->run(words + used, &own)) {
            return EXIT_DONE;
        }
        status = own->domain == G_OPTION_ERROR ? EXIT_USAGE : EXIT_FAILED;
        g_propagate_error(error, g_steal_pointer(&own));
        return status;
    }
    g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_FAILED,
                "%s; hint: quasar-relayctl --help lists the commands",
                count == 0 ? "a command is missing" : "there is no such command");
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) parser = g_option_context_new("COMMAND [ARGUMENT...]");
    g_autofree char *text = summary();
    g_autoptr(GError) error = NULL;
    int status = EXIT_USAGE;

    g_option_context_add_main_entries(parser, options, NULL);
    g_option_context_set_summary(parser, text);
    if (g_option_context_parse(parser, &argc, &argv, &error)) {
        status = find_paths(&error) ? run(opt_words, &error) : EXIT_FAILED;
    }
    if (error != NULL) {
        g_printerr("error: %s\n", error->message);
    }
    return status;
}
