/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "move/talk.h"

#include "move/image.h"

#include <string.h>

#define WORDS_MAX 400
/* What a peer may have said before it closed its ears, and for how long it is listened to. */
#define LAST_WORDS_MAX 8u
#define LAST_WORDS_MS 5000u

static const char *const file_keys[] = { "kernel", "initrd", "iso" };

char *qs_talk_clean(const char *words)
{
    g_autofree char *cut = g_utf8_substring(words, 0, MIN(g_utf8_strlen(words, -1), WORDS_MAX));

    return qs_fail_line(cut);
}

/* --- messages --- */

JsonObject *qs_talk_message(const char *say)
{
    JsonObject *message = json_object_new();

    json_object_set_string_member(message, "say", say);
    return message;
}

const char *qs_talk_says(JsonObject *message)
{
    const char *say = qs_json_get_string(message, "say", NULL);

    return say == NULL ? "" : say;
}

static bool set_refusal(JsonObject *message, GError **error)
{
    const char *words = qs_json_get_string(message, "words", NULL);
    const char *hint = qs_json_get_string(message, "hint", NULL);
    g_autofree char *shown = qs_talk_clean(words == NULL ? "no reason given" : words);
    g_autofree char *advice = hint == NULL ? NULL : qs_talk_clean(hint);
    guint64 code = 0;

    /* Only codes by which nothing was changed there. */
    qs_json_get_u64(message, "code", &code, NULL);
    return qs_fail(error, code == QS_VM_ERROR_FAILED ? QS_VM_ERROR_FAILED : QS_VM_ERROR_REFUSED,
                   "it is here as it was", advice, "the other host says: %s", shown);
}

JsonObject *qs_talk_receive(QsLines *lines, guint wait_ms, GCancellable *cancellable,
                            GError **error)
{
    JsonObject *message = qs_lines_receive(lines, qs_lines_deadline(wait_ms), cancellable, error);

    if (message != NULL && g_str_equal(qs_talk_says(message), "refuse")) {
        set_refusal(message, error);
        g_clear_pointer(&message, json_object_unref);
    }
    return message;
}

/* A peer that went away while we talked: its refusal, or nonsense, tells more than its end. */
static void hear_last_words(QsLines *lines, GError **error)
{
    for (guint i = 0; i < LAST_WORDS_MAX; i++) {
        g_autoptr(GError) own = NULL;
        g_autoptr(JsonObject) message = qs_talk_receive(lines, LAST_WORDS_MS, NULL, &own);

        if (message == NULL) {
            if (own->domain == QS_VM_ERROR ||
                g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_PROTOCOL)) {
                g_clear_error(error);
                g_propagate_error(error, g_steal_pointer(&own));
            }
            return;
        }
    }
}

bool qs_talk_send(QsLines *lines, JsonObject *message, GCancellable *cancellable, GError **error)
{
    g_autoptr(GError) own = NULL;
    bool done =
        qs_lines_send(lines, message, qs_lines_deadline(QS_TALK_ANSWER_MS), cancellable, &own);

    json_object_unref(message);
    if (!done) {
        if (g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_LOST)) {
            hear_last_words(lines, &own);
        }
        g_propagate_error(error, g_steal_pointer(&own));
    }
    return done;
}

JsonObject *qs_talk_expect(QsLines *lines, const char *say, guint wait_ms,
                           GCancellable *cancellable, GError **error)
{
    JsonObject *message = qs_talk_receive(lines, wait_ms, cancellable, error);

    if (message != NULL && !g_str_equal(qs_talk_says(message), say)) {
        g_autofree char *what = g_strdup_printf("\"%s\" was expected", say);

        qs_lines_fail(lines, error, what);
        g_clear_pointer(&message, json_object_unref);
    }
    return message;
}

/* Where the VM is, is the source's to say; the hint goes along. */
bool qs_talk_refuse(QsLines *lines, const GError *why)
{
    JsonObject *message = qs_talk_message("refuse");
    g_autofree char *line = qs_fail_line(why->message);
    g_autofree char *what = NULL;
    g_autofree char *hint = NULL;

    qs_fail_split(line, &what, &hint);
    json_object_set_int_member(message, "code",
                               why->domain == QS_VM_ERROR ? why->code : QS_VM_ERROR_FAILED);
    json_object_set_string_member(message, "words", what);
    if (hint != NULL) {
        json_object_set_string_member(message, "hint", hint);
    }
    return qs_talk_send(lines, message, NULL, NULL);
}

bool qs_talk_send_hello(QsLines *lines, const char *version, GCancellable *cancellable,
                        GError **error)
{
    JsonObject *message = qs_talk_message("hello");

    json_object_set_int_member(message, "protocol", QS_TALK_PROTOCOL);
    json_object_set_string_member(message, "version", version);
    return qs_talk_send(lines, message, cancellable, error);
}

char *qs_talk_expect_hello(QsLines *lines, const char *version, GCancellable *cancellable,
                           GError **error)
{
    g_autoptr(JsonObject) message =
        qs_talk_expect(lines, "hello", QS_TALK_ANSWER_MS, cancellable, error);
    const char *theirs;
    guint64 protocol;

    if (message == NULL) {
        return NULL;
    }
    theirs = qs_json_get_string(message, "version", NULL);
    if (theirs == NULL || !qs_json_get_u64(message, "protocol", &protocol, NULL)) {
        qs_lines_fail(lines, error, "a malformed hello");
        return NULL;
    }
    if (protocol != QS_TALK_PROTOCOL) {
        g_autofree char *shown = qs_talk_clean(theirs);

        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "install the same release on both hosts",
                "quasar-run %s here and %.40s there do not understand each other", version, shown);
        return NULL;
    }
    return qs_talk_clean(theirs);
}

/* --- the offer --- */

QsOffer *qs_offer_new(const char *name, QsDef *def)
{
    QsOffer *offer = g_new0(QsOffer, 1);

    offer->name = g_strdup(name);
    offer->def = def;
    return offer;
}

void qs_offer_free(QsOffer *offer)
{
    if (offer != NULL) {
        g_free(offer->name);
        qs_def_free(offer->def);
        g_free(offer);
    }
}

JsonObject *qs_offer_pack(const QsOffer *offer)
{
    JsonObject *message = qs_talk_message("offer");
    JsonArray *disks = json_array_new();
    JsonArray *files = json_array_new();
    g_autofree char *text = qs_def_text(offer->def);

    json_object_set_string_member(message, "name", offer->name);
    json_object_set_string_member(message, "definition", text);
    json_object_set_boolean_member(message, "only-check", offer->only_check);
    json_object_set_boolean_member(message, "relay-secret", offer->secret);
    for (guint i = 0; i < offer->n_disks; i++) {
        JsonObject *disk = json_object_new();

        json_object_set_int_member(disk, "size", (gint64)offer->disks[i].size);
        json_object_set_int_member(disk, "allocated", (gint64)offer->disks[i].allocated);
        json_array_add_object_element(disks, disk);
    }
    for (guint i = 0; i < offer->n_files; i++) {
        JsonObject *file = json_object_new();

        json_object_set_string_member(file, "key", offer->files[i].key);
        json_object_set_int_member(file, "size", (gint64)offer->files[i].size);
        json_array_add_object_element(files, file);
    }
    json_object_set_array_member(message, "disks", disks);
    json_object_set_array_member(message, "files", files);
    return message;
}

static bool malformed(GError **error, const char *what)
{
    return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "the offer is malformed: %s", what);
}

static JsonArray *get_list(JsonObject *message, const char *name, guint most)
{
    JsonNode *node = json_object_get_member(message, name);
    JsonArray *list =
        node != NULL && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;

    return list != NULL && json_array_get_length(list) <= most ? list : NULL;
}

static JsonObject *element(JsonArray *list, guint i)
{
    JsonNode *node = json_array_get_element(list, i);

    return JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

static bool unpack_disks(QsOffer *offer, JsonObject *message, GError **error)
{
    guint images = offer->def->image == NULL ? 0 : g_strv_length(offer->def->image);
    JsonArray *list = get_list(message, "disks", QS_DEF_IMAGES_MAX);

    if (list == NULL || json_array_get_length(list) != images) {
        return malformed(error, "one disk for each image");
    }
    for (guint i = 0; i < images; i++) {
        QsTalkDisk *disk = &offer->disks[offer->n_disks++];
        JsonObject *one = element(list, i);

        if (one == NULL || !qs_json_get_u64(one, "size", &disk->size, NULL) ||
            !qs_json_get_u64(one, "allocated", &disk->allocated, NULL) || disk->size == 0 ||
            disk->size > QS_IMAGE_SIZE_MAX || disk->allocated > QS_IMAGE_SIZE_MAX) {
            return malformed(error, "the size of a disk");
        }
    }
    return true;
}

/* Those that the definition names, each once, in their order. */
static bool unpack_files(QsOffer *offer, JsonObject *message, GError **error)
{
    JsonArray *list = get_list(message, "files", QS_TALK_FILES_MAX);

    if (list == NULL) {
        return malformed(error, "its files");
    }
    for (guint i = 0; i < G_N_ELEMENTS(file_keys); i++) {
        g_autofree char *path = qs_def_get(offer->def, file_keys[i]);
        QsTalkFile *file = &offer->files[offer->n_files];
        JsonObject *one;

        if (path == NULL) {
            continue;
        }
        one = offer->n_files < json_array_get_length(list) ? element(list, offer->n_files) : NULL;
        if (one == NULL || g_strcmp0(qs_json_get_string(one, "key", NULL), file_keys[i]) != 0 ||
            !qs_json_get_u64(one, "size", &file->size, NULL) || file->size > QS_IMAGE_SIZE_MAX) {
            return malformed(error, "its files are not those of the definition");
        }
        file->key = file_keys[i];
        offer->n_files++;
    }
    return offer->n_files == json_array_get_length(list) ||
           malformed(error, "more files than the definition names");
}

QsOffer *qs_offer_unpack(JsonObject *message, GError **error)
{
    const char *name = qs_json_get_string(message, "name", NULL);
    const char *text = qs_json_get_string(message, "definition", NULL);
    g_autoptr(GError) own = NULL;
    g_autoptr(QsOffer) offer = NULL;
    QsDef *def;

    if (name == NULL || text == NULL || !qs_name_check(name, NULL)) {
        malformed(error, "a name and a definition");
        return NULL;
    }
    def = qs_def_parse(text, &own);
    if (def == NULL) {
        malformed(error, own->message);
        return NULL;
    }
    offer = qs_offer_new(name, def);
    if (!qs_def_check(def, &own)) {
        malformed(error, own->message);
        return NULL;
    }
    qs_json_get_bool(message, "relay-secret", &offer->secret, NULL);
    return qs_json_get_bool(message, "only-check", &offer->only_check, error) &&
                   unpack_disks(offer, message, error) && unpack_files(offer, message, error)
               ? g_steal_pointer(&offer)
               : NULL;
}
