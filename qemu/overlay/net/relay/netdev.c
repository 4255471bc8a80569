/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * -netdev relay: a guest's card on a Quasar relay.
 *
 * The identity and the epoch are part of the machine's state; who claims the
 * port, and when, is link.h's business.  The guest's cable is never pulled:
 * while the relay is away its frames are lost, as they would be on any network.
 */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-net-relay.h"
#include "qapi/qapi-events-net-relay.h"
#include "crypto/secret_common.h"
#include "crypto/tlscredspsk.h"
#include "crypto/tlscredsx509.h"
#include "migration/vmstate.h"
#include "net/eth.h"
#include "net/net.h"
#include "net-relay/protocol.h"
#include "quasar/peer.h"
#include "system/runstate.h"
#include "net/clients.h"
#include "link.h"

#define NAME_SIZE (QS_RELAY_NAME_MAX + 1)

typedef struct RelayNetdev {
    NetClientState nc;
    RelayLink *link;
    char tenant[NAME_SIZE], identity[NAME_SIZE];
    bool ignore_epoch;
    VMStateDescription vmstate;       /* its name has the identity in it */
    VMChangeStateEntry *run_state_entry;
    QTAILQ_ENTRY(RelayNetdev) next;
    /* as they are saved */
    uint64_t saved_epoch;
} RelayNetdev;

static QTAILQ_HEAD(, RelayNetdev) netdevs = QTAILQ_HEAD_INITIALIZER(netdevs);

/* --- what the link asks for --- */

static void frame_taken(NetClientState *nc, ssize_t len)
{
    relay_link_unblock(DO_UPCAST(RelayNetdev, nc, nc)->link);
}

static bool link_frame(void *opaque, const uint8_t *frame, size_t size)
{
    RelayNetdev *s = opaque;
    uint8_t padded[ETH_ZLEN];
    size_t padded_size = sizeof(padded);

    if (net_peer_needs_padding(&s->nc) &&
        eth_pad_short_frame(padded, &padded_size, frame, size)) {
        frame = padded;
        size = padded_size;
    }
    return qemu_send_packet_async(&s->nc, frame, size, frame_taken) != 0;
}

static void link_room(void *opaque)
{
    RelayNetdev *s = opaque;

    qemu_flush_queued_packets(&s->nc);
}

static void link_mac(void *opaque, uint8_t mac[6])
{
    RelayNetdev *s = opaque;

    if (s->nc.peer && s->nc.peer->info->type == NET_CLIENT_DRIVER_NIC) {
        memcpy(mac, qemu_get_nic(s->nc.peer)->conf->macaddr.a, 6);
    }
}

static void link_changed(void *opaque)
{
    RelayNetdev *s = opaque;
    RelayNetdevState state = relay_link_state(s->link);
    const char *reason = relay_link_reason(s->link);
    uint64_t epoch = relay_link_epoch(s->link);

    qemu_set_info_str(&s->nc, "%s/%s epoch %" PRIu64 " %s%s%s", s->tenant,
                      s->identity, epoch, RelayNetdevState_str(state),
                      reason ? ": " : "", reason ?: "");
    qapi_event_send_relay_netdev_state(s->nc.name, state, epoch, reason);
    if (state == RELAY_NETDEV_STATE_ENDED &&
        !runstate_check(RUN_STATE_POSTMIGRATE) &&
        !runstate_check(RUN_STATE_FINISH_MIGRATE)) {
        error_report("netdev '%s': %s", s->nc.name, reason);
    }
}

static const RelayLinkOps link_ops = {
    .frame = link_frame,
    .room = link_room,
    .mac = link_mac,
    .changed = link_changed,
};

/* --- the guest --- */

static ssize_t relay_receive(NetClientState *nc, const uint8_t *frame,
                             size_t size)
{
    RelayNetdev *s = DO_UPCAST(RelayNetdev, nc, nc);
    bool gone;

    return relay_link_frame(s->link, frame, size, &gone) || gone ? size : 0;
}

static void run_state_changed(void *opaque, bool running, RunState state)
{
    RelayNetdev *s = opaque;

    if (running) {
        relay_link_run(s->link);
    } else {
        relay_link_pause(s->link);
    }
}

/* --- its state --- */

static int pre_save(void *opaque)
{
    RelayNetdev *s = opaque;

    s->saved_epoch = relay_link_epoch(s->link);
    return 0;
}

static int post_load(void *opaque, int version)
{
    RelayNetdev *s = opaque;

    if (s->saved_epoch >= QS_RELAY_EPOCH_MAX) {
        error_report("netdev '%s': the epoch in the state cannot be",
                     s->nc.name);
        return -EINVAL;
    }
    if (!s->ignore_epoch) {
        relay_link_inherit(s->link, s->saved_epoch);
    }
    return 0;
}

static const VMStateField vmstate_fields[] = {
    VMSTATE_UINT64(saved_epoch, RelayNetdev),
    VMSTATE_END_OF_LIST()
};

/*
 * A section an identity: neither the order of netdevs nor what was plugged
 * before matters, and a machine does not fit where its identity is missing.
 */
static void register_state(RelayNetdev *s)
{
    s->vmstate.name = g_strdup_printf("relay-netdev/%s/%s", s->tenant,
                                      s->identity);
    s->vmstate.version_id = 1;
    s->vmstate.minimum_version_id = 1;
    s->vmstate.pre_save = pre_save;
    s->vmstate.post_load = post_load;
    s->vmstate.fields = vmstate_fields;
    vmstate_register(NULL, 0, &s->vmstate, s);
}

/* --- its life --- */

static void relay_cleanup(NetClientState *nc)
{
    RelayNetdev *s = DO_UPCAST(RelayNetdev, nc, nc);

    qemu_purge_queued_packets(nc);
    QTAILQ_REMOVE(&netdevs, s, next);
    vmstate_unregister(NULL, &s->vmstate, s);
    g_free((char *)s->vmstate.name);
    qemu_del_vm_change_state_handler(s->run_state_entry);
    /* a machine that went elsewhere has its port there */
    relay_link_free(s->link, !runstate_check(RUN_STATE_POSTMIGRATE) &&
                    !runstate_check(RUN_STATE_FINISH_MIGRATE) &&
                    !runstate_check(RUN_STATE_INMIGRATE));
}

static NetClientInfo relay_info = {
    .type = NET_CLIENT_DRIVER_RELAY,
    .size = sizeof(RelayNetdev),
    .receive = relay_receive,
    .cleanup = relay_cleanup,
};

static SocketAddress *make_address(const NetdevRelayOptions *options,
                                   Error **errp)
{
    SocketAddress *address;

    if (!!options->path == !!options->host || !!options->host !=
        !!options->port) {
        error_setg(errp, "a relay is reached by host= and port=, or by path=");
        return NULL;
    }
    address = g_new0(SocketAddress, 1);
    if (options->path) {
        address->type = SOCKET_ADDRESS_TYPE_UNIX;
        address->u.q_unix.path = g_strdup(options->path);
    } else {
        address->type = SOCKET_ADDRESS_TYPE_INET;
        address->u.inet.host = g_strdup(options->host);
        address->u.inet.port = g_strdup(options->port);
    }
    return address;
}

/*
 * A key proves both ends to each other.  Certificates prove the relay only if
 * they are looked at: its name is to be @host's.
 */
static QCryptoTLSCreds *find_creds(const char *id, Error **errp)
{
    ERRP_GUARD();
    QCryptoTLSCreds *creds = quasar_peer_creds(id, true, errp);
    bool x509 = creds && object_dynamic_cast(OBJECT(creds),
                                             TYPE_QCRYPTO_TLS_CREDS_X509);

    if (!creds) {
        return NULL;
    }
    if (!x509 && !object_dynamic_cast(OBJECT(creds),
                                      TYPE_QCRYPTO_TLS_CREDS_PSK)) {
        error_setg(errp, "'%s' has neither a key nor certificates", id);
        error_append_hint(errp, "Use a tls-creds-psk or tls-creds-x509 "
                          "object.\n");
    } else if (x509 && !object_property_get_bool(OBJECT(creds), "verify-peer",
                                                 &error_abort)) {
        error_setg(errp, "with '%s' anybody on the way could pass for the "
                   "relay", id);
        error_append_hint(errp, "Create it without verify-peer=off.\n");
    } else {
        return creds;
    }
    object_unref(OBJECT(creds));
    return NULL;
}

static bool make_secret(const NetdevRelayOptions *options,
                        RelayLinkConfig *config, Error **errp)
{
    if (!options->secret == !options->tls_creds) {
        error_setg(errp, "an identity is proved by secret= or by tls-creds=");
        return false;
    }
    if (options->tls_creds) {
        if (options->path) {
            error_setg(errp, "tls-creds= is for host= and port=");
            return false;
        }
        config->creds = find_creds(options->tls_creds, errp);
        return config->creds;
    }
    if (options->host && !quasar_peer_is_loopback(options->host)) {
        error_setg(errp, "the guest's frames would be open to everybody on "
                   "the way to '%s'", options->host);
        error_append_hint(errp, "Use tls-creds= in place of secret=.\n");
        return false;
    }
    return qcrypto_secret_lookup(options->secret, &config->secret,
                                 &config->secret_size, errp) == 0;
}

static bool check_names(const char *tenant, const char *identity, Error **errp)
{
    if (qs_relay_name_valid(tenant, strlen(tenant)) &&
        qs_relay_name_valid(identity, strlen(identity))) {
        return true;
    }
    error_setg(errp, "tenant and identity have 1 to %u of a-z, 0-9, '-' and "
               "'_', and begin with a letter or digit", QS_RELAY_NAME_MAX);
    return false;
}

int net_init_relay(const Netdev *netdev, const char *name, NetClientState *peer,
                   Error **errp)
{
    const NetdevRelayOptions *options = &netdev->u.relay;
    const char *tenant = options->tenant ?: "default";
    RelayLinkConfig config = { .mtu = options->mtu };
    NetClientState *nc;
    RelayNetdev *s;

    if (!check_names(tenant, options->identity, errp)) {
        return -1;
    }
    if (options->has_mtu && (options->mtu < QS_RELAY_MTU_MIN ||
                             options->mtu > QS_RELAY_MTU_MAX)) {
        error_setg(errp, "mtu must be from %u to %u", QS_RELAY_MTU_MIN,
                   QS_RELAY_MTU_MAX);
        return -1;
    }
    config.address = make_address(options, errp);
    if (!config.address) {
        return -1;
    }
    if (!make_secret(options, &config, errp)) {
        qapi_free_SocketAddress(config.address);
        return -1;
    }
    config.tenant = g_strdup(tenant);
    config.identity = g_strdup(options->identity);
    nc = qemu_new_net_client(&relay_info, peer, "relay", name);
    s = DO_UPCAST(RelayNetdev, nc, nc);
    pstrcpy(s->tenant, NAME_SIZE, tenant);
    pstrcpy(s->identity, NAME_SIZE, options->identity);
    s->ignore_epoch = options->ignore_epoch;
    s->link = relay_link_new(&config, &link_ops, s);
    s->run_state_entry = qemu_add_vm_change_state_handler(run_state_changed, s);
    register_state(s);
    QTAILQ_INSERT_TAIL(&netdevs, s, next);
    qemu_set_info_str(nc, "%s/%s idle", s->tenant, s->identity);
    if (runstate_is_running()) {
        relay_link_run(s->link);
    }
    return 0;
}

RelayNetdevInfoList *qmp_query_relay_netdevs(Error **errp)
{
    RelayNetdevInfoList *list = NULL, **tail = &list;
    RelayNetdev *s;

    QTAILQ_FOREACH(s, &netdevs, next) {
        RelayNetdevInfo *info = g_new0(RelayNetdevInfo, 1);

        info->id = g_strdup(s->nc.name);
        info->state = relay_link_state(s->link);
        info->identity = g_strdup_printf("%s/%s", s->tenant, s->identity);
        info->epoch = relay_link_epoch(s->link);
        info->reason = g_strdup(relay_link_reason(s->link));
        QAPI_LIST_APPEND(tail, info);
    }
    return list;
}
