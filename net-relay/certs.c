/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "certs.h"

#include "identity.h"
#include "log.h"
#include "smallfile.h"

#include <gio/gio.h>
#include <gnutls/x509.h>
#include <string.h>
#include <time.h>

#define FILE_MAX ((gsize)256 * 1024)
#define CRL_FILE_MAX ((gsize)4 * 1024 * 1024)
#define AUTHORITIES_MAX 64
/* The longest key, RSA's, that is worth the time its signatures take. */
#define KEY_BITS_MAX 8192

struct QsCerts {
    gatomicrefcount refs;
    gnutls_certificate_credentials_t credentials;
};

typedef struct CrtList {
    gnutls_x509_crt_t *at;
    unsigned int count;
} CrtList;

typedef struct CrlList {
    gnutls_x509_crl_t *at;
    unsigned int count;
} CrlList;

/* Everything in the directory, while it is looked at. */
typedef struct Files {
    const char *directory;
    CrtList authorities;
    CrtList chain;
    CrlList revoked;
    gnutls_x509_privkey_t key;
} Files;

static void files_clear(Files *f)
{
    for (unsigned int i = 0; i < f->authorities.count; i++) {
        gnutls_x509_crt_deinit(f->authorities.at[i]);
    }
    for (unsigned int i = 0; i < f->chain.count; i++) {
        gnutls_x509_crt_deinit(f->chain.at[i]);
    }
    for (unsigned int i = 0; i < f->revoked.count; i++) {
        gnutls_x509_crl_deinit(f->revoked.at[i]);
    }
    gnutls_free(f->authorities.at);
    gnutls_free(f->chain.at);
    gnutls_free(f->revoked.at);
    if (f->key != NULL) {
        gnutls_x509_privkey_deinit(f->key);
    }
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Files, files_clear)

static const char ca_file[] = "ca-cert.pem";
static const char crl_file[] = "ca-crl.pem";
static const char cert_file[] = "server-cert.pem";
static const char key_file[] = "server-key.pem";

G_GNUC_PRINTF(4, 5)
static bool wrong(const Files *f, const char *name, GError **error, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list arguments;

    va_start(arguments, format);
    text = g_strdup_vprintf(format, arguments);
    va_end(arguments);
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "certificates: %s/%s: %s", f->directory,
                name, text);
    return false;
}

static char *read_file(const Files *f, const char *name, gsize most, gnutls_datum_t *ret_data,
                       GError **error)
{
    g_autofree char *path = g_build_filename(f->directory, name, NULL);
    gsize size = 0;
    char *text = qs_smallfile_read(path, most, g_str_equal(name, key_file), &size, error);

    if (text == NULL) {
        g_prefix_error(error, "certificates: %s: ", path);
        return NULL;
    }
    ret_data->data = (unsigned char *)text;
    ret_data->size = (unsigned int)size;
    return text;
}

static bool read_list(const Files *f, const char *name, unsigned int most, CrtList *list,
                      GError **error)
{
    gnutls_datum_t data;
    g_autofree char *text = read_file(f, name, FILE_MAX, &data, error);
    int result;

    if (text == NULL) {
        return false;
    }
    result = gnutls_x509_crt_list_import2(&list->at, &list->count, &data, GNUTLS_X509_FMT_PEM, 0);
    if (result < 0) {
        list->at = NULL;
        list->count = 0;
        return wrong(f, name, error, "no certificates in PEM: %s", gnutls_strerror(result));
    }
    return list->count <= most ||
           wrong(f, name, error, "%u certificates; at most %u are taken", list->count, most);
}

static bool read_key(Files *f, GError **error)
{
    gnutls_datum_t data;
    g_autofree char *text = read_file(f, key_file, FILE_MAX, &data, error);
    int result;

    if (text == NULL) {
        return false;
    }
    result = gnutls_x509_privkey_init(&f->key);
    if (result >= 0) {
        result = gnutls_x509_privkey_import2(f->key, &data, GNUTLS_X509_FMT_PEM, NULL, 0);
    }
    explicit_bzero(text, data.size);
    return result >= 0 || wrong(f, key_file, error, "no key in PEM without a password: %s",
                                gnutls_strerror(result));
}

/* Only a list that is not there at all may be missing: one that cannot be read revokes something.
 */
static bool read_revoked(Files *f, GError **error)
{
    g_autofree char *path = g_build_filename(f->directory, crl_file, NULL);
    g_autoptr(GError) own = NULL;
    gnutls_datum_t data;
    g_autofree char *text = read_file(f, crl_file, CRL_FILE_MAX, &data, &own);
    int result;

    if (text == NULL) {
        if (g_error_matches(own, G_IO_ERROR, G_IO_ERROR_NOT_FOUND) &&
            !g_file_test(path, G_FILE_TEST_IS_SYMLINK)) {
            return true;
        }
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    result = gnutls_x509_crl_list_import2(&f->revoked.at, &f->revoked.count, &data,
                                          GNUTLS_X509_FMT_PEM, 0);
    if (result < 0) {
        f->revoked.at = NULL;
        f->revoked.count = 0;
        return wrong(f, crl_file, error, "no revocation list in PEM: %s", gnutls_strerror(result));
    }
    return true;
}

static void warn_of_time(const Files *f, const char *name, const char *text)
{
    qs_log(QS_LOG_WARNING, "certificate-time", "file=%s/%s text=\"%s\"", f->directory, name, text);
}

static void look_at_times(const Files *f, const char *name, const CrtList *list)
{
    time_t now = time(NULL);

    for (unsigned int i = 0; i < list->count; i++) {
        if (gnutls_x509_crt_get_expiration_time(list->at[i]) < now) {
            warn_of_time(f, name, "a certificate has expired; renew it, then reload");
        } else if (gnutls_x509_crt_get_activation_time(list->at[i]) > now) {
            warn_of_time(f, name, "a certificate is not valid yet; look at the clock");
        }
    }
}

static bool check_authorities(const Files *f, GError **error)
{
    for (unsigned int i = 0; i < f->authorities.count; i++) {
        if (gnutls_x509_crt_get_ca_status(f->authorities.at[i], NULL) <= 0) {
            return wrong(f, ca_file, error,
                         "certificate %u in it is not an authority's (basicConstraints CA:TRUE)",
                         i + 1);
        }
    }
    look_at_times(f, ca_file, &f->authorities);
    return true;
}

static bool check_revoked(const Files *f, GError **error)
{
    const unsigned int times =
        GNUTLS_CERT_REVOCATION_DATA_SUPERSEDED | GNUTLS_CERT_REVOCATION_DATA_ISSUED_IN_FUTURE;

    for (unsigned int i = 0; i < f->revoked.count; i++) {
        unsigned int status = 0;
        int result = gnutls_x509_crl_verify(f->revoked.at[i], f->authorities.at,
                                            f->authorities.count, 0, &status);

        if (result < 0 || (status & ~(times | GNUTLS_CERT_INVALID)) != 0 ||
            (status & (times | GNUTLS_CERT_INVALID)) == GNUTLS_CERT_INVALID) {
            return wrong(f, crl_file, error,
                         "list %u in it is not signed by an authority in ca-cert.pem that may do "
                         "so (keyUsage cRLSign)",
                         i + 1);
        }
        if ((status & times) != 0) {
            warn_of_time(f, crl_file, "the next list is due; fetch it, then reload");
        }
    }
    return true;
}

static bool check_chain(const Files *f, GError **error)
{
    unsigned int usage, status = 0;
    int result;

    if (!gnutls_x509_crt_check_key_purpose(f->chain.at[0], GNUTLS_KP_TLS_WWW_SERVER, 0)) {
        return wrong(f, cert_file, error,
                     "not made for servers; make one with extendedKeyUsage serverAuth");
    }
    if (gnutls_x509_crt_get_key_usage(f->chain.at[0], &usage, NULL) >= 0 &&
        (usage & GNUTLS_KEY_DIGITAL_SIGNATURE) == 0) {
        return wrong(f, cert_file, error,
                     "not made to sign; make one with keyUsage digitalSignature");
    }
    result = gnutls_x509_crt_list_verify(
        f->chain.at, (int)f->chain.count, f->authorities.at, (int)f->authorities.count,
        f->revoked.at, (int)f->revoked.count, GNUTLS_VERIFY_DISABLE_TIME_CHECKS, &status);
    if (result < 0 || status != 0) {
        return wrong(f, cert_file, error, "%s",
                     (status & GNUTLS_CERT_REVOKED) != 0
                         ? "it is revoked by ca-crl.pem; make another"
                         : "not signed by an authority in ca-cert.pem: the two do not belong "
                           "together, or one between them is missing");
    }
    look_at_times(f, cert_file, &f->chain);
    return true;
}

static bool fill(QsCerts *certs, const Files *f, GError **error)
{
    gnutls_certificate_credentials_t credentials;
    int result = gnutls_certificate_allocate_credentials(&certs->credentials);

    if (result < 0) {
        return wrong(f, "", error, "%s", gnutls_strerror(result));
    }
    credentials = certs->credentials;
    result = gnutls_certificate_set_x509_trust(credentials, f->authorities.at,
                                               (int)f->authorities.count);
    if (result < 0) {
        return wrong(f, ca_file, error, "%s", gnutls_strerror(result));
    }
    if (f->revoked.count > 0) {
        result = gnutls_certificate_set_x509_crl(credentials, f->revoked.at, (int)f->revoked.count);
        if (result < 0) {
            return wrong(f, crl_file, error, "%s", gnutls_strerror(result));
        }
    }
    result = gnutls_certificate_set_x509_key(credentials, f->chain.at, (int)f->chain.count, f->key);
    if (result < 0) {
        return wrong(f, key_file, error, "not the key of server-cert.pem: %s",
                     gnutls_strerror(result));
    }
    gnutls_certificate_set_verify_limits(credentials, KEY_BITS_MAX, QS_CERTS_CHAIN_MAX);
    return true;
}

QsCerts *qs_certs_load(const char *directory, GError **error)
{
    g_autoptr(QsCerts) certs = g_new0(QsCerts, 1);
    g_auto(Files) f = { .directory = directory };

    g_atomic_ref_count_init(&certs->refs);
    if (!read_list(&f, ca_file, AUTHORITIES_MAX, &f.authorities, error) ||
        !read_list(&f, cert_file, QS_CERTS_CHAIN_MAX, &f.chain, error) || !read_key(&f, error) ||
        !read_revoked(&f, error) || !check_authorities(&f, error) || !check_revoked(&f, error) ||
        !check_chain(&f, error) || !fill(certs, &f, error)) {
        return NULL;
    }
    return g_steal_pointer(&certs);
}

QsCerts *qs_certs_ref(QsCerts *certs)
{
    g_atomic_ref_count_inc(&certs->refs);
    return certs;
}

void qs_certs_unref(QsCerts *certs)
{
    if (certs == NULL || !g_atomic_ref_count_dec(&certs->refs)) {
        return;
    }
    if (certs->credentials != NULL) {
        gnutls_certificate_free_credentials(certs->credentials);
    }
    g_free(certs);
}

gnutls_certificate_credentials_t qs_certs_credentials(const QsCerts *certs)
{
    return certs->credentials;
}

/* --- a peer's --- */

static bool refuse(GError **error, const char *text)
{
    g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED, text);
    return false;
}

/* The worst comes first: what a stranger's certificate says of itself means nothing. */
static const struct {
    unsigned int flags;
    const char *text;
} faults[] = {
    { GNUTLS_CERT_SIGNER_NOT_FOUND | GNUTLS_CERT_SIGNER_NOT_CA | GNUTLS_CERT_SIGNATURE_FAILURE,
      "the client's certificate is not signed by an authority that this relay knows" },
    { GNUTLS_CERT_REVOKED, "the client's certificate is revoked" },
    { GNUTLS_CERT_EXPIRED, "the client's certificate has expired; renew it" },
    { GNUTLS_CERT_NOT_ACTIVATED,
      "the client's certificate is not valid yet; look at both hosts' clocks" },
    { GNUTLS_CERT_PURPOSE_MISMATCH,
      "the client's certificate is not made for clients (extendedKeyUsage clientAuth)" },
    { GNUTLS_CERT_INSECURE_ALGORITHM,
      "the client's certificate, or one above it, has a key or signature that is too weak" },
};

static bool verify(gnutls_session_t session, GError **error)
{
    gnutls_typed_vdata_st purpose = {
        .type = GNUTLS_DT_KEY_PURPOSE_OID,
        .data = (unsigned char *)(guintptr)GNUTLS_KP_TLS_WWW_CLIENT,
    };
    unsigned int status = 0;
    int result = gnutls_certificate_verify_peers(session, &purpose, 1, &status);

    if (result == GNUTLS_E_CONSTRAINT_ERROR) {
        return refuse(error, "the client's chain of certificates is too long, or a key in it is");
    }
    if (result < 0) {
        return refuse(error, "the client's certificate cannot be verified");
    }
    for (gsize i = 0; i < G_N_ELEMENTS(faults); i++) {
        if ((status & faults[i].flags) != 0) {
            return refuse(error, faults[i].text);
        }
    }
    return status == 0 || refuse(error, "the client's certificate is not valid");
}

char **qs_certs_peer_names(gnutls_session_t session, GError **error)
{
    unsigned int count = 0;
    const gnutls_datum_t *peers = gnutls_certificate_get_peers(session, &count);
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    gnutls_x509_crt_t crt;

    if (peers == NULL || count == 0) {
        refuse(error, "the client came with neither a key nor a certificate");
        return NULL;
    }
    if (!verify(session, error)) {
        return NULL;
    }
    if (gnutls_x509_crt_init(&crt) < 0) {
        refuse(error, "the client's certificate cannot be read");
        return NULL;
    }
    if (gnutls_x509_crt_import(crt, &peers[0], GNUTLS_X509_FMT_DER) >= 0) {
        for (unsigned int i = 0; i < QS_IDENTITY_CERTIFICATES_MAX; i++) {
            char name[QS_IDENTITY_CERTIFICATE_NAME_MAX + 1];
            gsize size = sizeof(name) - 1;
            int kind = gnutls_x509_crt_get_subject_alt_name(crt, i, name, &size, NULL);

            if (kind == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE) {
                break;
            }
            /* One that is longer than a name may be, or has a NUL in it, is nobody's. */
            if (kind == GNUTLS_SAN_DNSNAME && size < sizeof(name) &&
                memchr(name, 0, size) == NULL) {
                name[size] = '\0';
                g_ptr_array_add(names, g_ascii_strdown(name, -1));
            }
        }
    }
    gnutls_x509_crt_deinit(crt);
    if (names->len == 0) {
        refuse(error, "the client's certificate has no name for DNS in its subjectAltName");
        return NULL;
    }
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&names), FALSE);
}
