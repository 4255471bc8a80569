/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine's own connections, inside those by which the launchers reach each other.
 *
 * QEMU dials a unix socket of the run folder. For each connection it makes there, and makes again
 * after a cut, one ssh (or what stands for it) is started that runs `quasar-run receive --stream`
 * on the other host (see stream.h) and has that very connection as its input and output. So no byte
 * passes this program: when it is killed, the lanes that are open go on, and only a lane that is
 * cut later is not made again.
 */
#ifndef QS_MOVE_TUNNEL_H
#define QS_MOVE_TUNNEL_H

#include "vm/fail.h"

typedef struct QsTunnel QsTunnel;

/* @argv: what carries one connection. The socket is in @folder, for as long as the tunnel is. */
QsTunnel *qs_tunnel_open(const char *folder, char **argv, GError **error);
/* Where QEMU dials. */
const char *qs_tunnel_uri(const QsTunnel *tunnel);
/* How a connection ended last that QEMU had not let go of, in words; NULL: none did. */
char *qs_tunnel_trouble(QsTunnel *tunnel);
/* What still runs is given a moment, then ended. */
void qs_tunnel_close(QsTunnel *tunnel);

#endif
