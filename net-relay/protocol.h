/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The attach protocol between a guest NIC and the relay.
 *
 * Theory of operation
 *
 * A link is a byte stream: TLS 1.3 over TCP, or a plain unix or loopback socket. It carries
 * records. A record is a four-byte header in network byte order - the type in the top eight bits,
 * the payload's length in the low twenty-four - and the payload. Type 0 is an Ethernet frame, so a
 * stream of frames alone is the framing that QEMU's "stream" netdev, passt and socket_vmnet speak.
 *
 *   client                                relay
 *   HELLO  (who, which epoch)  ------->
 *                              <-------   CHALLENGE   only on a plain link: TLS has proved the
 * secret already PROOF                      ------->
 *                              <-------   WELCOME, or REFUSED and the end
 *   FRAME, PAUSE, RESUME,      <------>   FRAME, PING, PONG, BYE
 *   RELEASE, PING, PONG
 *
 * An identity has one owner at a time. The epoch says who: it only ever grows, a claim with a
 * higher one takes the identity over, a lower one or an equal one is refused. The WELCOME hands out
 * a token; a client that lost its link comes back with the same epoch and that token. The epoch
 * travels with the state of a VM, the token must not: so a copy of a VM can never return as its
 * original.
 *
 * All numbers are in network byte order. A HELLO or WELCOME may grow at its end; what a reader does
 * not know there it ignores. Anything else that a peer does not understand ends the link.
 *
 * This header needs nothing but the C library: the relay and a QEMU netdev share it.
 */
#ifndef QS_RELAY_PROTOCOL_H
#define QS_RELAY_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define QS_RELAY_MAGIC 0x51735265u /* "QsRe" */
#define QS_RELAY_VERSION_MIN 1u
#define QS_RELAY_VERSION_MAX 1u

#define QS_RELAY_HEADER_SIZE 4u
#define QS_RELAY_ETHER_HEADER 14u
/* 65535 bytes of IP behind an Ethernet header with one VLAN tag. */
#define QS_RELAY_FRAME_MAX 65553u
/* No record but a frame is longer. */
#define QS_RELAY_CONTROL_MAX 512u
#define QS_RELAY_PING_MAX 64u
#define QS_RELAY_TEXT_MAX 200u
#define QS_RELAY_NAME_MAX 32u
#define QS_RELAY_TOKEN_SIZE 16u
#define QS_RELAY_NONCE_SIZE 32u
#define QS_RELAY_PROOF_SIZE 32u
#define QS_RELAY_MTU_MIN 576u
#define QS_RELAY_MTU_MAX 65520u
/* Epochs above this are nobody's: a claim of one would leave no room for the next owner. */
#define QS_RELAY_EPOCH_MAX (UINT64_MAX >> 1)

/* The proof is HMAC-SHA256, keyed with the secret, of this text, the nonce and the payload of the
 * HELLO. */
#define QS_RELAY_PROOF_LABEL "quasar-relay-proof-1"

typedef enum QsRelayType {
    QS_RELAY_FRAME = 0x00,
    QS_RELAY_HELLO = 0x01,
    QS_RELAY_CHALLENGE = 0x02,
    QS_RELAY_PROOF = 0x03,
    QS_RELAY_WELCOME = 0x04,
    QS_RELAY_REFUSED = 0x05,
    QS_RELAY_PAUSE = 0x06,   /* the guest stands still: hold its frames, stop its NAT */
    QS_RELAY_RESUME = 0x07,  /* it runs again, here */
    QS_RELAY_RELEASE = 0x08, /* it left; whoever has a higher epoch may come, the link ends */
    QS_RELAY_BYE = 0x09,
    QS_RELAY_PING = 0x0a,
    QS_RELAY_PONG = 0x0b,
    QS_RELAY_TYPE_COUNT
} QsRelayType;

/* Why a claim was refused or a link ended. The numbers are part of the protocol. */
typedef enum QsRelayReason {
    QS_RELAY_REASON_NONE = 0,
    QS_RELAY_REASON_VERSION = 1,    /* no common version */
    QS_RELAY_REASON_DENIED = 2,     /* unknown identity or wrong secret; which one is not told */
    QS_RELAY_REASON_STALE = 3,      /* the epoch is not above the owner's */
    QS_RELAY_REASON_IN_USE = 4,     /* a claim without an epoch, and somebody is attached */
    QS_RELAY_REASON_MAC = 5,        /* the identity owns another MAC address */
    QS_RELAY_REASON_MALFORMED = 6,  /* a record that makes no sense */
    QS_RELAY_REASON_TIMEOUT = 7,    /* the peer was silent */
    QS_RELAY_REASON_LIMIT = 8,      /* too many links */
    QS_RELAY_REASON_TAKEN_OVER = 9, /* a higher epoch came: never return with this one */
    QS_RELAY_REASON_RELEASED = 10,  /* as the client asked */
    QS_RELAY_REASON_REMOVED = 11,   /* the operator took the identity away */
    QS_RELAY_REASON_SHUTDOWN = 12,  /* the relay stops or restarts: come back with the token */
    QS_RELAY_REASON_INTERNAL = 13,  /* the relay could not write its state down */
    QS_RELAY_REASON_DRAINING = 14,  /* the relay takes nobody new: try another, or later */
    QS_RELAY_REASON_COUNT
} QsRelayReason;

#define QS_RELAY_HELLO_TOKEN (1u << 0)  /* the token field is set: same owner, same epoch */
#define QS_RELAY_HELLO_PAUSED (1u << 1) /* attach, but the guest does not run yet */

/* Fixed part: magic 4, version_min 2, version_max 2, flags 4, features 4, epoch 8, token 16, mtu 4,
 * mac 6, lengths 2. */
#define QS_RELAY_HELLO_FIXED 52u
/* version 2, reserved 2, features 4, epoch 8, token 16, mtu 4, mac 6, reserved 2. */
#define QS_RELAY_WELCOME_FIXED 44u

typedef struct QsRelayHello {
    uint16_t version_min;
    uint16_t version_max;
    uint32_t flags;
    uint32_t features; /* none is defined in version 1 */
    uint64_t epoch;    /* 0: a cold start that knows no epoch */
    uint8_t token[QS_RELAY_TOKEN_SIZE];
    uint32_t mtu;   /* 0: take the relay's */
    uint8_t mac[6]; /* all zero: not told */
    char tenant[QS_RELAY_NAME_MAX + 1];
    char identity[QS_RELAY_NAME_MAX + 1];
} QsRelayHello;

typedef struct QsRelayWelcome {
    uint16_t version;
    uint32_t features;
    uint64_t epoch; /* what the client now owns; its successor claims one more */
    uint8_t token[QS_RELAY_TOKEN_SIZE];
    uint32_t mtu;
    uint8_t mac[6]; /* what the identity owns, or all zero */
} QsRelayWelcome;

static inline void qs_relay_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void qs_relay_put32(uint8_t *p, uint32_t v)
{
    qs_relay_put16(p, (uint16_t)(v >> 16));
    qs_relay_put16(p + 2, (uint16_t)v);
}

static inline void qs_relay_put64(uint8_t *p, uint64_t v)
{
    qs_relay_put32(p, (uint32_t)(v >> 32));
    qs_relay_put32(p + 4, (uint32_t)v);
}

static inline uint16_t qs_relay_get16(const uint8_t *p)
{
    return (uint16_t)((p[0] << 8) | p[1]);
}

static inline uint32_t qs_relay_get32(const uint8_t *p)
{
    return ((uint32_t)qs_relay_get16(p) << 16) | qs_relay_get16(p + 2);
}

static inline uint64_t qs_relay_get64(const uint8_t *p)
{
    return ((uint64_t)qs_relay_get32(p) << 32) | qs_relay_get32(p + 4);
}

static inline void qs_relay_put_header(uint8_t *p, uint8_t type, uint32_t size)
{
    qs_relay_put32(p, ((uint32_t)type << 24) | (size & 0xffffffu));
}

/* The longest payload that a record of this type may have; 0xffffffff for a type that does not
 * exist. */
static inline uint32_t qs_relay_type_limit(uint8_t type)
{
    switch (type) {
    case QS_RELAY_FRAME: return QS_RELAY_FRAME_MAX;
    case QS_RELAY_HELLO:
    case QS_RELAY_WELCOME: return QS_RELAY_CONTROL_MAX;
    case QS_RELAY_CHALLENGE: return QS_RELAY_NONCE_SIZE;
    case QS_RELAY_PROOF: return QS_RELAY_PROOF_SIZE;
    case QS_RELAY_REFUSED:
    case QS_RELAY_BYE: return 2 + QS_RELAY_TEXT_MAX;
    case QS_RELAY_PING:
    case QS_RELAY_PONG: return QS_RELAY_PING_MAX;
    case QS_RELAY_PAUSE:
    case QS_RELAY_RESUME:
    case QS_RELAY_RELEASE: return 0;
    default: return 0xffffffffu;
    }
}

/* Names are file names and log words too: lower case letters, digits, '-' and '_', starting with a
 * letter or digit. */
static inline bool qs_relay_name_valid(const char *name, size_t size)
{
    if (size == 0 || size > QS_RELAY_NAME_MAX || name[0] == '-' || name[0] == '_') {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        char c = name[i];

        if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_')) {
            return false;
        }
    }
    return true;
}

/* Writes the payload of a HELLO; `out` holds QS_RELAY_CONTROL_MAX bytes. Returns its size, 0 for an
 * invalid name. */
static inline size_t qs_relay_hello_pack(const QsRelayHello *h, uint8_t *out)
{
    size_t tenant = strlen(h->tenant);
    size_t identity = strlen(h->identity);

    if (!qs_relay_name_valid(h->tenant, tenant) || !qs_relay_name_valid(h->identity, identity)) {
        return 0;
    }
    qs_relay_put32(out, QS_RELAY_MAGIC);
    qs_relay_put16(out + 4, h->version_min);
    qs_relay_put16(out + 6, h->version_max);
    qs_relay_put32(out + 8, h->flags);
    qs_relay_put32(out + 12, h->features);
    qs_relay_put64(out + 16, h->epoch);
    memcpy(out + 24, h->token, QS_RELAY_TOKEN_SIZE);
    qs_relay_put32(out + 40, h->mtu);
    memcpy(out + 44, h->mac, 6);
    out[50] = (uint8_t)tenant;
    out[51] = (uint8_t)identity;
    memcpy(out + QS_RELAY_HELLO_FIXED, h->tenant, tenant);
    memcpy(out + QS_RELAY_HELLO_FIXED + tenant, h->identity, identity);
    return QS_RELAY_HELLO_FIXED + tenant + identity;
}

/* Reads a HELLO. Only the magic and the version numbers are promised to be readable in every
 * version, so a HELLO whose versions do not fit is reported as QS_RELAY_REASON_VERSION before
 * anything behind them is looked at. */
static inline QsRelayReason qs_relay_hello_parse(QsRelayHello *h, const uint8_t *p, size_t size)
{
    size_t tenant, identity;

    memset(h, 0, sizeof(*h));
    if (size < 8 || qs_relay_get32(p) != QS_RELAY_MAGIC) {
        return QS_RELAY_REASON_MALFORMED;
    }
    h->version_min = qs_relay_get16(p + 4);
    h->version_max = qs_relay_get16(p + 6);
    if (h->version_min > h->version_max) {
        return QS_RELAY_REASON_MALFORMED;
    }
    if (h->version_min > QS_RELAY_VERSION_MAX || h->version_max < QS_RELAY_VERSION_MIN) {
        return QS_RELAY_REASON_VERSION;
    }
    if (size < QS_RELAY_HELLO_FIXED || size > QS_RELAY_CONTROL_MAX) {
        return QS_RELAY_REASON_MALFORMED;
    }
    h->flags = qs_relay_get32(p + 8);
    h->features = qs_relay_get32(p + 12);
    h->epoch = qs_relay_get64(p + 16);
    memcpy(h->token, p + 24, QS_RELAY_TOKEN_SIZE);
    h->mtu = qs_relay_get32(p + 40);
    memcpy(h->mac, p + 44, 6);
    tenant = p[50];
    identity = p[51];
    if (size - QS_RELAY_HELLO_FIXED < tenant + identity ||
        !qs_relay_name_valid((const char *)p + QS_RELAY_HELLO_FIXED, tenant) ||
        !qs_relay_name_valid((const char *)p + QS_RELAY_HELLO_FIXED + tenant, identity)) {
        return QS_RELAY_REASON_MALFORMED;
    }
    memcpy(h->tenant, p + QS_RELAY_HELLO_FIXED, tenant);
    memcpy(h->identity, p + QS_RELAY_HELLO_FIXED + tenant, identity);
    return QS_RELAY_REASON_NONE;
}

static inline size_t qs_relay_welcome_pack(const QsRelayWelcome *w, uint8_t *out)
{
    memset(out, 0, QS_RELAY_WELCOME_FIXED);
    qs_relay_put16(out, w->version);
    qs_relay_put32(out + 4, w->features);
    qs_relay_put64(out + 8, w->epoch);
    memcpy(out + 16, w->token, QS_RELAY_TOKEN_SIZE);
    qs_relay_put32(out + 32, w->mtu);
    memcpy(out + 36, w->mac, 6);
    return QS_RELAY_WELCOME_FIXED;
}

static inline bool qs_relay_welcome_parse(QsRelayWelcome *w, const uint8_t *p, size_t size)
{
    memset(w, 0, sizeof(*w));
    if (size < QS_RELAY_WELCOME_FIXED) {
        return false;
    }
    w->version = qs_relay_get16(p);
    w->features = qs_relay_get32(p + 4);
    w->epoch = qs_relay_get64(p + 8);
    memcpy(w->token, p + 16, QS_RELAY_TOKEN_SIZE);
    w->mtu = qs_relay_get32(p + 32);
    memcpy(w->mac, p + 36, 6);
    return true;
}

/* A short word for a reason; never NULL. */
static inline const char *qs_relay_reason_name(unsigned int reason)
{
    static const char *const names[] = {
        "none",     "version",   "denied",   "stale",    "in-use",
        "mac",      "malformed", "timeout",  "limit",    "taken-over",
        "released", "removed",   "shutdown", "internal", "draining",
    };

    _Static_assert(sizeof(names) / sizeof(names[0]) == QS_RELAY_REASON_COUNT,
                   "a name for each reason");
    return reason < QS_RELAY_REASON_COUNT ? names[reason] : "unknown";
}

#endif
