/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "wire/hello.h"

#include "wire/error.h"

bool qs_terms_check(const QsTerms *terms, GError **error)
{
    const char *wrong = NULL;

    if (terms->lanes < 1 || terms->lanes > QS_LANES_MAX) {
        wrong = "lanes";
    } else if (terms->payload_max < QS_CONTROL_MAX || terms->payload_max > QS_PAYLOAD_MAX) {
        wrong = "largest payload";
    } else if (terms->ring_bytes < 4 * (guint64)terms->payload_max ||
               terms->ring_bytes > QS_RING_MAX) {
        wrong = "ring";
    }
    if (wrong) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TERMS,
                    "impossible session terms (%s): %u lanes, payloads of %u, ring of "
                    "%" G_GUINT64_FORMAT " bytes",
                    wrong, terms->lanes, terms->payload_max, terms->ring_bytes);
        return false;
    }
    return true;
}

static void put_terms(QsKv *kv, const QsTerms *terms)
{
    qs_kv_set_u64(kv, "wire.lanes", terms->lanes);
    qs_kv_set_u64(kv, "wire.payload-max", terms->payload_max);
    qs_kv_set_u64(kv, "wire.ring-bytes", terms->ring_bytes);
}

static bool get_terms(const QsKv *kv, QsTerms *ret_terms, GError **error)
{
    guint64 lanes, payload_max, ring_bytes;

    if (!qs_kv_get_u64(kv, "wire.lanes", &lanes, error) ||
        !qs_kv_get_u64(kv, "wire.payload-max", &payload_max, error) ||
        !qs_kv_get_u64(kv, "wire.ring-bytes", &ring_bytes, error)) {
        return false;
    }
    /* More than we can is no fault of an offer; keep it from wrapping. */
    ret_terms->lanes = (guint)MIN(lanes, G_MAXUINT);
    ret_terms->payload_max = (guint32)MIN(payload_max, G_MAXUINT32);
    ret_terms->ring_bytes = ring_bytes;
    return true;
}

void qs_hello_offer(QsKv *kv, const QsTerms *mine)
{
    qs_kv_set_u64(kv, "wire.version-min", QS_WIRE_VERSION);
    qs_kv_set_u64(kv, "wire.version-max", QS_WIRE_VERSION);
    put_terms(kv, mine);
}

static bool check_versions(const QsKv *offer, GError **error)
{
    guint64 min, max;

    if (!qs_kv_get_u64(offer, "wire.version-min", &min, error) ||
        !qs_kv_get_u64(offer, "wire.version-max", &max, error)) {
        return false;
    }
    if (min > QS_WIRE_VERSION || max < QS_WIRE_VERSION) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TERMS,
                    "the peer speaks stream format versions %" G_GUINT64_FORMAT
                    " to %" G_GUINT64_FORMAT ", this end version %u: "
                    "use the same Quasar at both ends",
                    min, max, QS_WIRE_VERSION);
        return false;
    }
    return true;
}

bool qs_hello_agree(const QsKv *offer, const QsTerms *mine, QsKv *reply, QsTerms *ret_agreed,
                    GError **error)
{
    QsTerms agreed;

    if (!check_versions(offer, error) || !get_terms(offer, &agreed, error)) {
        return false;
    }
    agreed.lanes = MIN(agreed.lanes, mine->lanes);
    agreed.payload_max = MIN(agreed.payload_max, mine->payload_max);
    agreed.ring_bytes = MIN(agreed.ring_bytes, mine->ring_bytes);
    if (!qs_terms_check(&agreed, error)) {
        return false;
    }
    qs_kv_set_u64(reply, "wire.version", QS_WIRE_VERSION);
    put_terms(reply, &agreed);
    *ret_agreed = agreed;
    return true;
}

bool qs_hello_confirm(const QsKv *reply, const QsTerms *mine, QsTerms *ret_agreed, GError **error)
{
    guint64 version;
    QsTerms agreed;

    if (!qs_kv_get_u64(reply, "wire.version", &version, error) ||
        !get_terms(reply, &agreed, error) || !qs_terms_check(&agreed, error)) {
        return false;
    }
    if (version != QS_WIRE_VERSION || agreed.lanes > mine->lanes ||
        agreed.payload_max > mine->payload_max || agreed.ring_bytes > mine->ring_bytes) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TERMS,
                    "the peer's reply (version %" G_GUINT64_FORMAT ", %u lanes, payloads "
                    "of %u, ring of %" G_GUINT64_FORMAT " bytes) exceeds the offer",
                    version, agreed.lanes, agreed.payload_max, agreed.ring_bytes);
        return false;
    }
    *ret_agreed = agreed;
    return true;
}

QsKv *qs_refuse_new(const char *what, const char *state, const char *hint)
{
    QsKv *kv = qs_kv_new();

    qs_kv_set_string(kv, "refuse.what", what);
    qs_kv_set_string(kv, "refuse.state", state);
    qs_kv_set_string(kv, "refuse.hint", hint);
    return kv;
}

bool qs_refuse_report(const QsKv *refuse, GError **error)
{
    const char *what = qs_kv_get_string(refuse, "refuse.what", NULL);
    const char *state = qs_kv_get_string(refuse, "refuse.state", NULL);
    const char *hint = qs_kv_get_string(refuse, "refuse.hint", NULL);

    g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_REFUSED, "the other end refused: %s%s%s%s%s",
                what ? what : "it gave no reason", state ? "; state: " : "", state ? state : "",
                hint ? "; hint: " : "", hint ? hint : "");
    return false;
}
