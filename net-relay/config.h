/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's settings: group [relay] of a key file, each key also a flag, the flag winning.
 */
#ifndef QS_RELAY_CONFIG_H
#define QS_RELAY_CONFIG_H

#include "log.h"

#include <glib.h>
#include <stdbool.h>

typedef struct QsConfig {
    char *run_dir;      /* sockets */
    char *state_dir;    /* epochs */
    char *identities;   /* the file */
    char *control;      /* the control socket */
    char *worker;       /* the NAT worker's program */
    char *metrics;      /* ADDRESS:PORT on loopback, or NULL */
    char *metrics_file; /* or NULL */
    char *tls_cert_dir; /* certificates in QEMU's layout, or NULL */
    char **listen_tls;
    char **listen_plain;
    char **listen_unix;
    guint queue_kib;
    guint hold_kib;
    guint hold_seconds;
    guint keepalive_seconds;
    guint handshake_seconds;
    guint max_links; /* that have not attached yet */
    guint max_macs;  /* of a port without a fixed address */
    guint mac_age_seconds;
    guint nat_linger_seconds;
    guint metrics_seconds; /* between two metrics files */
    bool seccomp;
    QsLogLevel log_level;
} QsConfig;

QsConfig *qs_config_new(void);
void qs_config_free(QsConfig *config);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsConfig, qs_config_free)

bool qs_config_load(QsConfig *config, const char *path, GError **error);
/* One setting by its key; lists are separated by ';'. */
bool qs_config_set(QsConfig *config, const char *key, const char *value, GError **error);
/* Where things are when nothing else was said. */
void qs_config_default_paths(QsConfig *config);
/* The same, and makes the directory for sockets. */
bool qs_config_finish(QsConfig *config, GError **error);

#endif
