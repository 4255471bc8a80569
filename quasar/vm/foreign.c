/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/foreign.h"

/*
 * Its forwards go with its network. They may be asked of this host alone: whom else to listen for
 * is for its owner to say.
 */
static bool take_net(QsDef *def, const char *net, GError **error)
{
    if (net != NULL) {
        return qs_def_set(def, "forward", "", error) && qs_def_set(def, "net", net, error);
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

bool qs_foreign_disarm(QsDef *def, const char *net, GError **error)
{
    return qs_def_set(def, "sandbox", "auto", error) && qs_def_set(def, "moved", "", error) &&
           take_net(def, net, error) && qs_def_check(def, error);
}
