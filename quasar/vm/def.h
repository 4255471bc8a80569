/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The definition of a VM: group [vm] of its key file, and nothing else.
 *
 * A definition is complete: what QEMU or the host would choose - machine version, processor,
 * addresses, image formats - is chosen once, when it is made, and written down. So the same file
 * gives the same machine on every host and with every later release.
 */
#ifndef QS_VM_DEF_H
#define QS_VM_DEF_H

#include "vm/arch.h"
#include "vm/fail.h"

#define QS_DEF_IMAGES_MAX 8u
#define QS_DEF_FORWARDS_MAX 64u
#define QS_DEF_TEXT_MAX 4096u
/* In `moved`, where no host can be called so: it comes from one, and is not here yet. */
#define QS_DEF_ARRIVING "(arriving)"

typedef struct QsDef {
    char *guest;
    char *machine;
    char *cpu;
    guint memory; /* MiB */
    guint cpus;
    char **image;        /* absolute paths */
    char **image_format; /* one each: raw or qcow2 */
    char *iso;
    char *kernel;
    char *initrd;
    char *append;
    char *firmware;
    char *net;      /* user, none, relay:..., socket:PATH */
    char **forward; /* [tcp:|udp:][ADDRESS:]PORT:GUESTPORT */
    char *mac;
    char *uuid;
    char *display; /* none, std */
    char *sandbox; /* auto, on, off */
    char *scope;   /* the same; it never leaves this host; NULL in a file of an older release */
    char *moved;   /* the host it left for, or QS_DEF_ARRIVING; it is not started here */
} QsDef;

typedef struct QsForward {
    bool udp;
    char address[40]; /* IPv4 */
    guint port;
    guint guest_port;
} QsForward;

#define QS_RELAY_WORD_MAX 32u
/* Where relays listen for TLS. */
#define QS_RELAY_PORT 4710u

/* What net=relay:... says: where the relay is, and who the guest is there. */
typedef struct QsRelay {
    char path[108]; /* of its unix socket; empty: host and port, with TLS */
    char host[256];
    guint port;
    char tenant[QS_RELAY_WORD_MAX + 1];
    char identity[QS_RELAY_WORD_MAX + 1];
} QsRelay;

QsDef *qs_def_new(void);
void qs_def_free(QsDef *def);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsDef, qs_def_free)

/* A name that is safe in a path, on a command line and in a list. */
bool qs_name_check(const char *name, GError **error);

/* The keys in order; NULL behind the last. What a value may be, for help and messages. */
const char *qs_def_key_at(guint index, const char **ret_values);
/* @value as on a command line: lists are separated by ';', memory takes a suffix. */
bool qs_def_set(QsDef *def, const char *key, const char *value, GError **error);
/* NULL when it is not set or there is no such key. */
char *qs_def_get(const QsDef *def, const char *key);
bool qs_def_equal(const QsDef *a, const QsDef *b);

/* Fills in what was left open, for a VM of this name. Looks at the images. */
bool qs_def_complete(QsDef *def, const char *name, GError **error);
/* Whether the values fit each other. Looks at no file. */
bool qs_def_check(const QsDef *def, GError **error);
/* Whether the files it names are there. */
bool qs_def_check_files(const QsDef *def, GError **error);

/* The key file's text, and back. */
char *qs_def_text(const QsDef *def);
QsDef *qs_def_parse(const char *text, GError **error);
QsDef *qs_def_load(const char *path, GError **error);
bool qs_def_save(const QsDef *def, const char *path, GError **error);

bool qs_def_parse_size(const char *text, guint *ret_mib, GError **error);
bool qs_def_parse_forward(const char *text, QsForward *ret_forward, GError **error);
bool qs_def_net_is_relay(const char *net);
bool qs_def_parse_relay(const char *net, QsRelay *ret_relay, GError **error);
/* TENANT/NAME, as the relay's own tools say. */
char *qs_relay_key(const QsRelay *relay);
/* Its address, for people. */
char *qs_relay_where(const QsRelay *relay);
/* "qcow2" or "raw", by what the file begins with. */
const char *qs_def_image_format(const char *path, GError **error);
/* Whether a qcow2 image names no other file, which QEMU would open wherever that is. */
bool qs_def_image_is_alone(const char *path);

#endif
