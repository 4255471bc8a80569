/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Prints a golden file anew: wire-golden NAME > golden/NAME.hex */
#include <stdio.h>
#include <string.h>

#include "samples.h"

int main(int argc, char **argv)
{
    for (guint i = 0; argc == 2 && sample_files[i]; i++) {
        if (!strcmp(argv[1], sample_files[i])) {
            g_autoptr(GPtrArray) samples = samples_build(argv[1]);
            g_autofree char *text = samples_format(argv[1], samples);

            return fputs(text, stdout) < 0 || fflush(stdout) != 0;
        }
    }
    fprintf(stderr, "usage: wire-golden good|future|compressed|bad\n");
    return 2;
}
