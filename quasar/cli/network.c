/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/network.h"

/* A relay that answers does so at once; for another one nobody waits long. */
#define SETTLE_MS 5000

/* What the VM that runs was started with may differ from its definition. */
static bool find_relay(QsVm *vm, QsRelay *ret_relay)
{
    g_autoptr(QsDef) live = qs_vm_live_def(vm);

    return live != NULL && qs_def_net_is_relay(live->net) &&
           qs_def_parse_relay(live->net, ret_relay, NULL);
}

void qs_network_warn(QsVm *vm)
{
    g_autofree char *words = NULL;
    g_autofree char *hint = NULL;
    g_autofree char *line = NULL;
    QsRelayInfo info;
    QsRelay relay;

    if (!find_relay(vm, &relay) || !qs_relay_ask(vm, SETTLE_MS, true, &info) ||
        g_str_equal(info.state, "attached")) {
        return;
    }
    if (!qs_relay_explain(vm, &relay, &info, &words, &hint)) {
        g_autofree char *where = qs_relay_where(&relay);

        words = g_strdup_printf("the relay %s has not answered yet", where);
        hint = g_strdup_printf("quasar-run show %s tells more later", qs_vm_name(vm));
    }
    line = qs_fail_line(words);
    g_printerr("warning: %s" QS_FAIL_STATE "%s, without its network" QS_FAIL_HINT "%s\n", line,
               QS_VM_RUNS, hint);
}

char *qs_network_line(QsVm *vm, guint wait_ms, QsRelayInfo *ret_info)
{
    g_autofree char *words = NULL;
    g_autofree char *hint = NULL;
    QsRelayInfo info;
    QsRelay relay;

    if (!find_relay(vm, &relay) || !qs_relay_ask(vm, wait_ms, false, &info)) {
        return NULL;
    }
    *ret_info = info;
    if (qs_relay_explain(vm, &relay, &info, &words, &hint)) {
        return g_strdup_printf("%s: %s; %s", info.state, words, hint);
    }
    return g_strdup_printf("%s, epoch %" G_GUINT64_FORMAT, info.state, info.epoch);
}
