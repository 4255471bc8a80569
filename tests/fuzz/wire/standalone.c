/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Runs a fuzzer over files and over mutations of them, without libFuzzer:
 *   PROGRAM [--mutate N] [--seed S] FILE...
 * A file that ends in .hex holds hexadecimal text, '#' begins a comment.
 */
#include <glib.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "fuzz.h"

static int n_mutations = 0;
static int seed = 1;

static const GOptionEntry options[] = {
    { "mutate", 0, 0, G_OPTION_ARG_INT, &n_mutations, "mutations of each file", "N" },
    { "seed", 0, 0, G_OPTION_ARG_INT, &seed, "where they begin", "S" },
    { NULL, 0, 0, 0, NULL, NULL, NULL },
};

static GByteArray *from_hex(const char *text, const char *path)
{
    GByteArray *out = g_byte_array_new();
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    int high = -1;

    for (char **line = lines; *line; line++) {
        for (const char *at = *line; *at && *at != '#'; at++) {
            int digit = g_ascii_xdigit_value(*at);
            guint8 byte;

            if (g_ascii_isspace(*at)) {
                continue;
            }
            if (digit < 0) {
                g_error("%s: '%c' is not a hexadecimal digit", path, *at);
            }
            if (high < 0) {
                high = digit;
                continue;
            }
            byte = (guint8)(high << 4 | digit);
            g_byte_array_append(out, &byte, 1);
            high = -1;
        }
    }
    return out;
}

static GByteArray *load(const char *path)
{
    g_autoptr(GError) error = NULL;
    char *text;
    gsize len;

    if (!g_file_get_contents(path, &text, &len, &error)) {
        g_error("%s", error->message);
    }
    if (g_str_has_suffix(path, ".hex")) {
        g_autofree char *owned = text;

        return from_hex(owned, path);
    }
    return g_byte_array_new_take((guint8 *)text, len);
}

/* One to eight small changes: a bit, a byte, a removed or a doubled stretch. */
static void mutate(GByteArray *bytes, GRand *rand)
{
    for (int n = g_rand_int_range(rand, 1, 9); n > 0 && bytes->len > 0; n--) {
        guint at = g_rand_int(rand) % bytes->len;
        guint len = g_rand_int(rand) % 20;
        guint left = bytes->len - at;
        g_autofree guint8 *copy = g_malloc(20);

        len = MIN(len, left);
        switch (g_rand_int(rand) % 5) {
        case 0: g_byte_array_remove_range(bytes, at, len); break;
        case 1:
            memcpy(copy, bytes->data + at, len);
            g_byte_array_append(bytes, copy, len);
            break;
        case 2: bytes->data[at] = (guint8)g_rand_int(rand); break;
        default: bytes->data[at] ^= (guint8)(1u << g_rand_int(rand) % 8); break;
        }
    }
}

static void run(const GByteArray *bytes)
{
    /* A block of its own, so that reading past its end is seen. */
    g_autofree guint8 *copy = g_malloc(bytes->len ? bytes->len : 1);

    if (bytes->len > 0) {
        memcpy(copy, bytes->data, bytes->len);
    }
    LLVMFuzzerTestOneInput(copy, bytes->len);
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("FILE...");
    g_autoptr(GError) error = NULL;
    GRand *rand;

    /* A broken precondition is a finding as well. */
    g_log_set_always_fatal(G_LOG_LEVEL_CRITICAL | G_LOG_FATAL_MASK);
    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || argc < 2) {
        fprintf(stderr, "error: %s\n", error ? error->message : "no file given");
        return 2;
    }
    rand = g_rand_new_with_seed((guint32)seed);
    for (int i = 1; i < argc; i++) {
        g_autoptr(GByteArray) original = load(argv[i]);

        run(original);
        for (int n = 0; n < n_mutations; n++) {
            g_autoptr(GByteArray) changed = g_byte_array_new();

            g_byte_array_append(changed, original->data, original->len);
            mutate(changed, rand);
            run(changed);
        }
    }
    g_rand_free(rand);
    printf("%d files, %d mutations of each\n", argc - 1, n_mutations);
    return 0;
}
