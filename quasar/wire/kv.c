/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "wire/kv.h"

#include <string.h>

#include "wire/error.h"
#include "wire/frame.h"
#include "wire/le.h"

#define ENTRY_HEAD 8u
#define ENTRY_REQUIRED 0x01u

typedef struct Entry {
    char *key;
    guint8 type;
    bool required;
    GBytes *value; /* as encoded, but strings keep a NUL behind their end */
} Entry;

struct QsKv {
    GPtrArray *entries; /* in the order of their keys */
    GError *fault;      /* the first thing that cannot be encoded */
};

static void entry_free(void *data)
{
    Entry *entry = data;

    g_free(entry->key);
    g_bytes_unref(entry->value);
    g_free(entry);
}

QsKv *qs_kv_new(void)
{
    QsKv *kv = g_new0(QsKv, 1);

    kv->entries = g_ptr_array_new_with_free_func(entry_free);
    return kv;
}

void qs_kv_free(QsKv *kv)
{
    if (kv) {
        g_ptr_array_unref(kv->entries);
        g_clear_error(&kv->fault);
        g_free(kv);
    }
}

static bool key_is_valid(const char *key, gsize len)
{
    if (len < 1 || len > QS_KV_KEY_MAX || !g_ascii_islower(key[0])) {
        return false;
    }
    for (gsize i = 1; i < len; i++) {
        if (!g_ascii_islower(key[i]) && !g_ascii_isdigit(key[i]) && key[i] != '-' &&
            key[i] != '.') {
            return false;
        }
    }
    return true;
}

static bool is_control(gunichar c)
{
    return (c < 0x20 && c != '\t' && c != '\n') || (c >= 0x7f && c <= 0x9f);
}

static bool string_is_valid(const char *text, gsize len)
{
    if (!g_utf8_validate_len(text, len, NULL)) {
        return false; /* also refuses NUL inside */
    }
    for (const char *at = text; at < text + len; at = g_utf8_next_char(at)) {
        if (is_control(g_utf8_get_char(at))) {
            return false;
        }
    }
    return true;
}

/* Where @key stands, or where it would be inserted. */
static bool find(const QsKv *kv, const char *key, guint *ret_index)
{
    guint low = 0;
    guint high = kv->entries->len;

    while (low < high) {
        guint middle = low + (high - low) / 2;
        const Entry *entry = g_ptr_array_index(kv->entries, middle);
        int order = strcmp(entry->key, key);

        if (order == 0) {
            *ret_index = middle;
            return true;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    *ret_index = low;
    return false;
}

static const Entry *lookup(const QsKv *kv, const char *key)
{
    guint index;

    return find(kv, key, &index) ? g_ptr_array_index(kv->entries, index) : NULL;
}

/* Strings keep a NUL behind their value so that they can be lent as they are. */
static GBytes *value_new(const void *value, gsize len)
{
    guint8 *copy = g_malloc(len + 1);
    g_autoptr(GBytes) whole = NULL;

    if (len > 0) {
        memcpy(copy, value, len);
    }
    copy[len] = 0;
    whole = g_bytes_new_take(copy, len + 1);
    return g_bytes_new_from_bytes(whole, 0, len);
}

static Entry *entry_new(const char *key, gsize key_len, guint8 type, bool required,
                        const void *value, gsize len)
{
    Entry *entry = g_new0(Entry, 1);

    entry->key = g_strndup(key, key_len);
    entry->type = type;
    entry->required = required;
    entry->value = value_new(value, len);
    return entry;
}

static bool set_fault(QsKv *kv, const char *key, const char *what)
{
    if (!kv->fault) {
        g_autofree char *shown = g_strescape(key, NULL);

        kv->fault = g_error_new(QS_WIRE_ERROR, QS_WIRE_ERROR_KV, "cannot encode key '%.64s': %s",
                                shown, what);
    }
    return false;
}

static bool may_set(QsKv *kv, const char *key, QsKvType type, const void *value, gsize len)
{
    if (!key_is_valid(key, strlen(key))) {
        return set_fault(kv, key, "keys are 1 to 64 of a-z 0-9 . - and begin with a letter");
    }
    if (len > QS_CONTROL_MAX) {
        return set_fault(kv, key, "its value is too long");
    }
    if (type == QS_KV_STRING && !string_is_valid(value, len)) {
        return set_fault(kv, key, "its text is not UTF-8 or has control characters");
    }
    if (kv->entries->len >= QS_KV_ENTRIES_MAX && !lookup(kv, key)) {
        return set_fault(kv, key, "there are too many keys");
    }
    return true;
}

static void set(QsKv *kv, const char *key, QsKvType type, const void *value, gsize len)
{
    guint index;

    if (!may_set(kv, key, type, value, len)) {
        return;
    }
    if (find(kv, key, &index)) {
        g_ptr_array_remove_index(kv->entries, index);
    }
    g_ptr_array_insert(kv->entries, (gint)index,
                       entry_new(key, strlen(key), (guint8)type, false, value, len));
}

void qs_kv_set_u64(QsKv *kv, const char *key, guint64 value)
{
    guint8 encoded[8];

    qs_le_put64(encoded, value);
    set(kv, key, QS_KV_U64, encoded, sizeof encoded);
}

void qs_kv_set_string(QsKv *kv, const char *key, const char *value)
{
    set(kv, key, QS_KV_STRING, value, strlen(value));
}

void qs_kv_set_bytes(QsKv *kv, const char *key, const void *value, gsize len)
{
    set(kv, key, QS_KV_BYTES, value, len);
}

void qs_kv_set_words(QsKv *kv, const char *key, const char *words)
{
    g_autoptr(GString) text = g_string_new(NULL);
    g_autofree char *valid = g_utf8_make_valid(words, (gssize)strnlen(words, QS_KV_WORDS_MAX));

    for (const char *at = valid; *at; at = g_utf8_next_char(at)) {
        gunichar c = g_utf8_get_char(at);

        if (text->len + 6 > QS_KV_WORDS_MAX) {
            break;
        }
        g_string_append_unichar(text, is_control(c) ? ' ' : c);
    }
    qs_kv_set_string(kv, key, text->str);
}

void qs_kv_require(QsKv *kv, const char *key)
{
    guint index;

    if (find(kv, key, &index)) {
        Entry *entry = g_ptr_array_index(kv->entries, index);

        entry->required = true;
    } else {
        set_fault(kv, key, "it is required but not set");
    }
}

GBytes *qs_kv_encode(const QsKv *kv, GError **error)
{
    g_autoptr(GByteArray) out = g_byte_array_new();

    if (kv->fault) {
        if (error) {
            *error = g_error_copy(kv->fault);
        }
        return NULL;
    }
    for (guint i = 0; i < kv->entries->len; i++) {
        const Entry *entry = g_ptr_array_index(kv->entries, i);
        gsize key_len = strlen(entry->key);
        gsize len;
        const guint8 *value = g_bytes_get_data(entry->value, &len);
        guint8 head[ENTRY_HEAD];

        if (out->len + ENTRY_HEAD + key_len + len > QS_CONTROL_MAX) {
            g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TOO_LARGE,
                        "key/value payload beyond %u bytes, at key '%s'", QS_CONTROL_MAX,
                        entry->key);
            return NULL;
        }
        head[0] = entry->type;
        head[1] = entry->required ? ENTRY_REQUIRED : 0;
        qs_le_put16(head + 2, (guint16)key_len);
        qs_le_put32(head + 4, (guint32)len);
        g_byte_array_append(out, head, sizeof head);
        g_byte_array_append(out, (const guint8 *)entry->key, (guint)key_len);
        if (len > 0) {
            g_byte_array_append(out, value, (guint)len);
        }
    }
    return g_byte_array_free_to_bytes(g_steal_pointer(&out));
}

/* What a reader checks of one entry once its lengths are known to fit. */
static const char *entry_fault(const QsKv *kv, const Entry *entry)
{
    gsize len;
    const void *value = g_bytes_get_data(entry->value, &len);

    if (kv->entries->len > 0) {
        const Entry *last = g_ptr_array_index(kv->entries, kv->entries->len - 1);

        if (strcmp(last->key, entry->key) >= 0) {
            return "keys do not ascend";
        }
    }
    if (entry->type == QS_KV_U64 && len != 8) {
        return "a number is not 8 bytes long";
    }
    if (entry->type == QS_KV_STRING && !string_is_valid(value, len)) {
        return "a text is not UTF-8 or has control characters";
    }
    if (entry->type == 0 || (entry->type > QS_KV_BYTES && entry->required)) {
        return "a value has a type that this version does not understand";
    }
    return NULL;
}

/* Reads the entry at @at; *ret_fault says what is wrong when it returns 0. */
static gsize read_entry(QsKv *kv, const guint8 *at, gsize left, const char **ret_fault)
{
    gsize key_len, len;
    Entry *entry;

    if (kv->entries->len >= QS_KV_ENTRIES_MAX) {
        *ret_fault = "there are too many keys";
        return 0;
    }
    if (left < ENTRY_HEAD) {
        *ret_fault = "it ends inside an entry";
        return 0;
    }
    key_len = qs_le_get16(at + 2);
    len = qs_le_get32(at + 4);
    if (key_len > left - ENTRY_HEAD || len > left - ENTRY_HEAD - key_len) {
        *ret_fault = "an entry is longer than what is left";
        return 0;
    }
    if (at[1] & ~ENTRY_REQUIRED) {
        *ret_fault = "an entry has unknown flags";
        return 0;
    }
    if (!key_is_valid((const char *)at + ENTRY_HEAD, key_len)) {
        *ret_fault = "a key is malformed";
        return 0;
    }
    entry = entry_new((const char *)at + ENTRY_HEAD, key_len, at[0], at[1] & ENTRY_REQUIRED,
                      at + ENTRY_HEAD + key_len, len);
    *ret_fault = entry_fault(kv, entry);
    if (*ret_fault) {
        entry_free(entry);
        return 0;
    }
    g_ptr_array_add(kv->entries, entry);
    return ENTRY_HEAD + key_len + len;
}

QsKv *qs_kv_decode(GBytes *payload, GError **error)
{
    g_autoptr(QsKv) kv = qs_kv_new();
    gsize size;
    const guint8 *bytes = g_bytes_get_data(payload, &size);
    const char *fault = size > QS_CONTROL_MAX ? "it is too long" : NULL;

    for (gsize at = 0; !fault && at < size;) {
        gsize used = read_entry(kv, bytes + at, size - at, &fault);

        if (used == 0) {
            g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_KV,
                        "malformed key/value payload, entry %u at byte %" G_GSIZE_FORMAT ": %s",
                        kv->entries->len + 1, at, fault);
            return NULL;
        }
        at += used;
    }
    if (fault) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_KV, "malformed key/value payload: %s",
                    fault);
        return NULL;
    }
    return g_steal_pointer(&kv);
}

static const Entry *get(const QsKv *kv, const char *key, QsKvType type, GError **error)
{
    static const char *const names[] = { "", "a number", "text", "bytes" };
    const Entry *entry = lookup(kv, key);

    if (!entry) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_KEY, "the peer did not send '%s'", key);
        return NULL;
    }
    if (entry->type != type) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_KEY, "the peer sent '%s', but not as %s",
                    key, names[type]);
        return NULL;
    }
    return entry;
}

bool qs_kv_get_u64(const QsKv *kv, const char *key, guint64 *ret_value, GError **error)
{
    const Entry *entry = get(kv, key, QS_KV_U64, error);

    if (!entry) {
        return false;
    }
    *ret_value = qs_le_get64(g_bytes_get_data(entry->value, NULL));
    return true;
}

const char *qs_kv_get_string(const QsKv *kv, const char *key, GError **error)
{
    const Entry *entry = get(kv, key, QS_KV_STRING, error);

    if (!entry) {
        return NULL;
    }
    /* GLib lends no pointer for an empty slice. */
    return g_bytes_get_size(entry->value) ? g_bytes_get_data(entry->value, NULL) : "";
}

GBytes *qs_kv_get_bytes(const QsKv *kv, const char *key, GError **error)
{
    const Entry *entry = get(kv, key, QS_KV_BYTES, error);

    return entry ? g_bytes_ref(entry->value) : NULL;
}

bool qs_kv_has(const QsKv *kv, const char *key)
{
    return lookup(kv, key) != NULL;
}

static bool is_known(const char *key, const char *const *known)
{
    for (; *known; known++) {
        gsize len = strlen(*known);

        if (g_str_has_suffix(*known, "*") ? strncmp(key, *known, len - 1) == 0
                                          : strcmp(key, *known) == 0) {
            return true;
        }
    }
    return false;
}

bool qs_kv_check_known(const QsKv *kv, const char *const *known, GError **error)
{
    for (guint i = 0; i < kv->entries->len; i++) {
        const Entry *entry = g_ptr_array_index(kv->entries, i);

        if (entry->required && !is_known(entry->key, known)) {
            g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_KEY,
                        "the peer requires '%s', which is not known here: "
                        "use the same Quasar at both ends",
                        entry->key);
            return false;
        }
    }
    return true;
}

guint qs_kv_n_entries(const QsKv *kv)
{
    return kv->entries->len;
}

const char *qs_kv_key(const QsKv *kv, guint index)
{
    const Entry *entry;

    g_return_val_if_fail(index < kv->entries->len, NULL);
    entry = g_ptr_array_index(kv->entries, index);
    return entry->key;
}

char *qs_kv_describe(const QsKv *kv, guint index)
{
    const Entry *entry;
    const void *value;
    gsize len;

    g_return_val_if_fail(index < kv->entries->len, NULL);
    entry = g_ptr_array_index(kv->entries, index);
    value = g_bytes_get_data(entry->value, &len);
    if (entry->type == QS_KV_U64) {
        return g_strdup_printf("%s = %" G_GUINT64_FORMAT, entry->key, qs_le_get64(value));
    }
    if (entry->type == QS_KV_STRING) {
        /* One line whatever the text holds; other characters stay readable. */
        g_auto(GStrv) lines = g_strsplit_set(len ? value : "", "\n\t", -1);
        g_autofree char *line = g_strjoinv(" ", lines);

        return g_strdup_printf("%s = \"%s\"", entry->key, line);
    }
    return g_strdup_printf("%s = %" G_GSIZE_FORMAT " bytes (type %u)", entry->key, len,
                           entry->type);
}
