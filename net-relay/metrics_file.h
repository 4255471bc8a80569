/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Metrics in a file, for the textfile collector of Prometheus' node exporter. */
#ifndef QS_RELAY_METRICS_FILE_H
#define QS_RELAY_METRICS_FILE_H

#include "attach.h"
#include "relay.h"

#include <glib.h>

typedef struct QsMetricsFile QsMetricsFile;

/* Writes the file that the configuration names, now and at its interval. Only the first failure is
 * returned; later ones are logged, and writing goes on. */
QsMetricsFile *qs_metrics_file_new(QsRelay *relay, QsAttach *attach, GError **error);
/* Removes the file: what it says is true no more. */
void qs_metrics_file_free(QsMetricsFile *file);

#endif
