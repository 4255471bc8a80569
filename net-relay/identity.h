/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Identities: who may attach, and what belongs to whom.
 *
 * They stand in one key file, a group "tenant/name" each, that only its owner may read. See
 * quasar-relayd(1) for the keys. A file is taken as a whole or not at all: an unknown key, a bad
 * value or two identities that claim the same thing refuse it, with the group and the reason.
 */
#ifndef QS_RELAY_IDENTITY_H
#define QS_RELAY_IDENTITY_H

#include "forward.h"

#include <glib.h>
#include <stdbool.h>

#define QS_IDENTITY_COUNT_MAX 4096
#define QS_IDENTITY_FILE_MAX (4 * 1024 * 1024)
#define QS_IDENTITY_CERTIFICATES_MAX 64
#define QS_IDENTITY_CERTIFICATE_NAME_MAX 253
#define QS_IDENTITY_SECRET_MIN 16
#define QS_IDENTITY_SECRET_MAX 64

typedef enum QsIdentityNat {
    QS_IDENTITY_NAT_NONE,
    QS_IDENTITY_NAT_SLIRP,
    QS_IDENTITY_NAT_SCALED, /* our own TCP before libslirp */
} QsIdentityNat;

typedef struct QsIdentity {
    gatomicrefcount refs;
    char *key; /* "tenant/name" */
    char *tenant;
    char *name;
    GBytes *secret;      /* or NULL */
    char **certificates; /* names of which one opens it, in lower case, or NULL */
    guint64 mac;         /* 0: learned */
    QsIdentityNat nat;   /* the kind of its NAT worker */
    bool ipv6;           /* the NAT serves IPv6 too */
    bool host_loopback;  /* the guest may reach the relay's loopback through its gateway */
    guint32 network;     /* IPv4, host byte order */
    guint prefix;
    guint32 address; /* of the guest */
    guint mtu;
    guint64 rate;     /* bits per second in each direction; 0: no limit */
    char *socket;     /* where a stock QEMU attaches, or NULL */
    GArray *forwards; /* of QsForward */
} QsIdentity;

QsIdentity *qs_identity_ref(QsIdentity *identity);
void qs_identity_unref(QsIdentity *identity);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsIdentity, qs_identity_unref)

/* Key -> QsIdentity. */
GHashTable *qs_identity_load(const char *path, GError **error);
GHashTable *qs_identity_parse(const char *text, gsize size, GError **error);

/* A certificate with these names, in lower case, opens it: one of them is in its section. */
bool qs_identity_accepts(const QsIdentity *identity, const char *const *names);
/* Splits and checks "tenant/name". */
bool qs_identity_split(const char *key, char **ret_tenant, char **ret_name, GError **error);
/* As it stands in the file. */
const char *qs_identity_nat_name(QsIdentityNat nat);
/* Everything the NAT worker was started with is the same. */
bool qs_identity_same_nat(const QsIdentity *a, const QsIdentity *b);
/* Address text in dotted decimal. */
char *qs_identity_format_ipv4(guint32 address);
/* The keys of a group, NULL behind the last. */
const char *qs_identity_key_at(guint i);
/* Secrets are written in hexadecimal. */
GBytes *qs_identity_parse_secret(const char *text);

#endif
