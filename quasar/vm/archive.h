/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VM in one file: its definition, its files and what QEMU wrote. There are two layouts.
 *
 * Version 1 has the state of a paused machine as a section, and its images as others:
 *
 *   0        "QSVMFILE", version and length of the index (32 bits each, little-endian)
 *   16       SHA-256 of the index
 *   48       the index: a key/value payload of wire/kv
 *   ...      zeros up to QS_ARCHIVE_START
 *   then     sections, each at a multiple of 64 KiB, in the order of the index
 *
 * Version 2 begins with a machine's own file, disks included (docs/format.rst, Files), which QEMU
 * wrote while the guest ran on. The rest is put behind it, so nothing of it is copied:
 *
 *   0        the machine
 *   ...      sections, each at a multiple of 64 KiB behind it
 *   then     the index, at such a multiple too
 *   last     the 48 bytes that version 1 begins with
 *
 * The index is written last, so a file that was not finished is none. A section's digest covers its
 * length and its blocks that are not zero, with their places; holes cost nothing on either side.
 * The machine has checksums of its own, which QEMU verifies.
 * A reader trusts no number of it: sections ascend, do not overlap, and end within the file.
 */
#ifndef QS_VM_ARCHIVE_H
#define QS_VM_ARCHIVE_H

#include "vm/def.h"

#define QS_ARCHIVE_START (1024u * 1024u)
#define QS_ARCHIVE_SECTIONS_MAX 14u

typedef struct QsSection {
    char key[16]; /* "state", or the definition's key it belongs to */
    guint64 offset, size;
    char digest[65];
} QsSection;

typedef struct QsArchive {
    char *name;
    char *definition; /* the text of its key file */
    guint64 machine;  /* bytes of the machine's own file; 0: version 1 */
    guint n_images;   /* with a machine: what the guest sees of each */
    guint64 images[QS_DEF_IMAGES_MAX];
    guint n_sections;
    QsSection sections[QS_ARCHIVE_SECTIONS_MAX];
} QsArchive;

QsArchive *qs_archive_new(const char *name, const char *definition);
void qs_archive_free(QsArchive *archive);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsArchive, qs_archive_free)

/* @fd is a machine's own file, and becomes an archive. Before any section. */
bool qs_archive_begin(QsArchive *archive, int fd, GError **error);
/* Where the next section begins. */
guint64 qs_archive_end(const QsArchive *archive);
/* Adds what stands in @fd from there on, @size bytes, as a section. */
bool qs_archive_note(QsArchive *archive, int fd, const char *key, guint64 size,
                     GCancellable *cancellable, GError **error);
/* Appends a file as a section. */
bool qs_archive_pack(QsArchive *archive, int fd, const char *key, const char *path,
                     GCancellable *cancellable, GError **error);
/* Makes it a whole archive. */
bool qs_archive_finish(const QsArchive *archive, int fd, GError **error);

QsArchive *qs_archive_read(int fd, GError **error);
/* Into a new file; nothing is left of it when the digest does not agree. */
bool qs_archive_unpack(const QsSection *section, int fd, const char *path,
                       GCancellable *cancellable, GError **error);
/*
 * The machine's own file into a new one, which QEMU takes from its first byte to its last. Where
 * the file system can share blocks, that costs nothing.
 */
bool qs_archive_extract(const QsArchive *archive, int fd, const char *path,
                        GCancellable *cancellable, GError **error);
/* A section without a file: does it say what it said? */
bool qs_archive_verify(const QsSection *section, int fd, GCancellable *cancellable, GError **error);

#endif
