/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Key/value payloads of the control frames: self-describing, typed, bounded.
 *
 * Keys ascend strictly, so a set has exactly one encoding, a key occurs once,
 * and an encoding that was read can be written again byte for byte. An entry
 * marked required must be understood by the reader; others may be ignored.
 * Strings are UTF-8 without control characters but tab and newline, because
 * they end on terminals.
 */
#ifndef QS_WIRE_KV_H
#define QS_WIRE_KV_H

#include <glib.h>
#include <stdbool.h>

#define QS_KV_ENTRIES_MAX 256u
#define QS_KV_KEY_MAX 64u
#define QS_KV_WORDS_MAX 4096u

typedef struct QsKv QsKv;

typedef enum QsKvType {
    QS_KV_U64 = 1,
    QS_KV_STRING = 2,
    QS_KV_BYTES = 3,
} QsKvType;

QsKv *qs_kv_new(void);
void qs_kv_free(QsKv *kv);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsKv, qs_kv_free)

/*
 * Setting a key again replaces it. What cannot be encoded (a malformed key,
 * control characters, too much) is reported by qs_kv_encode().
 */
void qs_kv_set_u64(QsKv *kv, const char *key, guint64 value);
void qs_kv_set_string(QsKv *kv, const char *key, const char *value);
void qs_kv_set_bytes(QsKv *kv, const char *key, const void *value, gsize len);
/*
 * For a person's eyes, from wherever: @words may be anything. What a string may
 * not hold is replaced, and there are no more than QS_KV_WORDS_MAX bytes of it.
 */
void qs_kv_set_words(QsKv *kv, const char *key, const char *words);

/* Marks a key that is set: a reader that does not know it must refuse. */
void qs_kv_require(QsKv *kv, const char *key);

GBytes *qs_kv_encode(const QsKv *kv, GError **error);
QsKv *qs_kv_decode(GBytes *payload, GError **error);

/* False with an error when the key is absent or has another type. */
bool qs_kv_get_u64(const QsKv *kv, const char *key, guint64 *ret_value, GError **error);
const char *qs_kv_get_string(const QsKv *kv, const char *key, GError **error);
GBytes *qs_kv_get_bytes(const QsKv *kv, const char *key, GError **error);
bool qs_kv_has(const QsKv *kv, const char *key);

/*
 * False when a required entry is not among @known, a NULL-terminated list. An
 * element that ends in '*' stands for all keys that begin so.
 */
bool qs_kv_check_known(const QsKv *kv, const char *const *known, GError **error);

/* For tools that show everything: entries in order, each as one line of text. */
guint qs_kv_n_entries(const QsKv *kv);
const char *qs_kv_key(const QsKv *kv, guint index);
char *qs_kv_describe(const QsKv *kv, guint index);

#endif
