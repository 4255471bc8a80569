#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Build one library for big-endian PowerPC from the unpacked source in the current folder and
# install it into $SYSROOT/usr.  Static libraries only: a program built with them needs nothing
# but the C library at run time.
set -eu

prefix=$SYSROOT/usr
export CFLAGS="-O2 --sysroot=$SYSROOT -fPIC" LDFLAGS="--sysroot=$SYSROOT"
export PKG_CONFIG_LIBDIR=$prefix/lib/pkgconfig PKG_CONFIG_SYSROOT_DIR=$SYSROOT PKG_CONFIG_PATH=
jobs=$(nproc)

with_configure() {
    ./configure --host="$TRIPLET" --prefix=/usr --libdir=/usr/lib --disable-shared \
        --enable-static "$@"
    make -j"$jobs"
    make install DESTDIR="$SYSROOT"
}

with_meson() {
    cat > cross.ini <<EOF
[binaries]
c = ['$TRIPLET-gcc']
cpp = ['false']
ar = '$TRIPLET-ar'
strip = '$TRIPLET-strip'
pkgconfig = 'pkg-config'
[built-in options]
c_args = ['--sysroot=$SYSROOT', '-fPIC']
c_link_args = ['--sysroot=$SYSROOT']
[properties]
sys_root = '$SYSROOT'
pkg_config_libdir = ['$PKG_CONFIG_LIBDIR']
[host_machine]
system = 'linux'
cpu_family = 'ppc64'
cpu = 'ppc64'
endian = 'big'
EOF
    meson setup build --cross-file cross.ini --prefix=/usr --libdir=lib --buildtype=release \
        --default-library=static --wrap-mode=nofallback "$@"
    ninja -C build
    DESTDIR=$SYSROOT meson install -C build --no-rebuild
}

# Programs link these libraries statically, but ask pkg-config as for shared ones: what is private
# to a library becomes part of its public needs.
fold_private() {
    for file in "$prefix"/lib/pkgconfig/*.pc; do
        awk '/^Requires(\.private)?:/ { sub(/^[^:]*:/, ""); requires = requires " " $0; next }
             /^Libs(\.private)?:/ { sub(/^[^:]*:/, ""); libs = libs " " $0; next }
             { print }
             END { if (requires) print "Requires:" requires; print "Libs:" libs }' \
            "$file" > "$file.new"
        mv "$file.new" "$file"
    done
}

case $1 in
zlib)
    # zlib's configure knows no --host; it takes the compiler from the environment
    CC="$TRIPLET-gcc" AR="$TRIPLET-ar" RANLIB="$TRIPLET-ranlib" \
        ./configure --prefix=/usr --libdir=/usr/lib --static
    make -j"$jobs" libz.a
    install -D -m 644 -t "$prefix/lib" libz.a
    install -D -m 644 -t "$prefix/include" zlib.h zconf.h
    install -D -m 644 -t "$prefix/lib/pkgconfig" zlib.pc
    ;;
libffi) with_configure --disable-docs --disable-multi-os-directory ;;
pcre2) with_configure --disable-pcre2grep-libz --disable-pcre2test-libreadline ;;
libpng1.6)
    CPPFLAGS="-I$prefix/include" LDFLAGS="$LDFLAGS -L$prefix/lib" with_configure
    ;;
glib2.0)
    with_meson -Dtests=false -Dlibmount=disabled -Dselinux=disabled -Dnls=disabled \
        -Dlibelf=disabled -Dxattr=false
    ;;
pixman) with_meson -Dtests=disabled -Dgtk=disabled -Dlibpng=disabled -Dopenmp=disabled ;;
libslirp) with_meson ;;
libzstd)
    make -C lib -j"$jobs" CC="$TRIPLET-gcc" AR="$TRIPLET-ar" CFLAGS="$CFLAGS" libzstd.a
    make -C lib install-static install-includes install-pc PREFIX=/usr DESTDIR="$SYSROOT" \
        CC="$TRIPLET-gcc" AR="$TRIPLET-ar" CFLAGS="$CFLAGS"
    ;;
xxhash)
    make -j"$jobs" CC="$TRIPLET-gcc" AR="$TRIPLET-ar" CFLAGS="$CFLAGS" libxxhash.a libxxhash.pc \
        prefix=/usr
    install -D -m 644 -t "$prefix/lib" libxxhash.a
    install -D -m 644 -t "$prefix/include" xxhash.h xxh3.h
    install -D -m 644 -t "$prefix/lib/pkgconfig" libxxhash.pc
    ;;
device-tree-compiler)
    make -j"$jobs" CC="$TRIPLET-gcc" AR="$TRIPLET-ar" CFLAGS="$CFLAGS -Ilibfdt" \
        NO_PYTHON=1 NO_YAML=1 NO_VALGRIND=1 libfdt/libfdt.a
    install -D -m 644 -t "$prefix/lib" libfdt/libfdt.a
    install -D -m 644 -t "$prefix/include" libfdt/fdt.h libfdt/libfdt.h libfdt/libfdt_env.h
    ;;
*)
    echo "no recipe for $1" >&2
    exit 2
    ;;
esac
fold_private
