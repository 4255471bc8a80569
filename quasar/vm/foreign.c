/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/foreign.h"

/*
 * The card's state bears the identity, so it loads into one with the same alone. Its relay is
 * where it was, unless that was a socket.
 */
static bool take_relay(QsDef *def, const char *net, GError **error)
{
    g_autofree char *key = NULL;
    g_autofree char *other = NULL;
    g_autofree char *hint = NULL;
    QsRelay from, to;

    if (!qs_def_parse_relay(def->net, &from, error)) {
        return false;
    }
    key = qs_relay_key(&from);
    hint =
        g_strdup_printf("--net relay:unix=PATH:%s or relay:HOST/%s names it from there", key, key);
    if (net == NULL) {
        return *from.path == '\0' || qs_fail(error, QS_VM_ERROR_REFUSED, NULL, hint,
                                             "its relay is a socket of another host");
    }
    if (!qs_def_net_is_relay(net)) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, hint,
                       "its card is %s on a relay, and its state fits no other network", key);
    }
    if (!qs_def_parse_relay(net, &to, error)) {
        return false;
    }
    other = qs_relay_key(&to);
    return g_str_equal(key, other)
               ? qs_def_set(def, "net", net, error)
               : qs_fail(error, QS_VM_ERROR_REFUSED, NULL, hint,
                         "its card is %s on a relay, and its state does not fit %s", key, other);
}

/* A card is a part of the machine, and behind user stands a state that nothing else takes. */
static bool fits(const char *from, const char *to)
{
    return g_str_equal(from, "none") == g_str_equal(to, "none") &&
           (!g_str_equal(from, "user") || g_str_equal(to, "user"));
}

static bool replace_net(QsDef *def, const char *net, GError **error)
{
    g_autofree char *before = g_strdup(def->net);

    return qs_def_set(def, "forward", "", error) && qs_def_set(def, "net", net, error) &&
           qs_def_check(def, error) &&
           (fits(before, net) ||
            qs_fail(error, QS_VM_ERROR_REFUSED, NULL,
                    "--net user takes its forwards away; another network needs a stop, "
                    "quasar-run set net=, and a new start",
                    "what it has of net=%s does not fit net=%s", before, net));
}

/*
 * Its forwards go with its network. They may be asked of this host alone: whom else to listen for
 * is for its owner to say.
 */
static bool take_net(QsDef *def, const char *net, GError **error)
{
    if (qs_def_net_is_relay(def->net)) {
        return take_relay(def, net, error);
    }
    if (net != NULL) {
        return replace_net(def, net, error);
    }
    if (g_str_has_prefix(def->net, "socket:")) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL,
                       "--net socket:PATH names the one of this host, --net user does without",
                       "its network was a socket of another host");
    }
    for (guint i = 0; def->forward != NULL && def->forward[i] != NULL; i++) {
        QsForward f;

        if (!qs_def_parse_forward(def->forward[i], &f, error)) {
            return false;
        }
        if (!g_str_has_prefix(f.address, "127.")) {
            return qs_fail(error, QS_VM_ERROR_REFUSED, NULL,
                           "--net user leaves its forwards away; set forward= names new ones",
                           "it would listen for other hosts: forward %s", def->forward[i]);
        }
    }
    return true;
}

bool qs_foreign_disarm(QsDef *def, const char *net, const char *scope, GError **error)
{
    return qs_def_set(def, "sandbox", "auto", error) &&
           qs_def_set(def, "scope", scope != NULL ? scope : "auto", error) &&
           qs_def_set(def, "moved", "", error) && take_net(def, net, error) &&
           qs_def_check(def, error);
}
