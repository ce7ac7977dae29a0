#!/bin/sh
# build_python.sh DIR glibc|musl [CONFIGURE ARGUMENTS]: build CPython 3.13 from Debian's source into DIR/python, e.g. with
# --disable-gil, or for musl, with a libffi (which ctypes needs) of its own. One to two minutes on two cores.
# Needs gcc and make; for musl also musl-gcc (musl-tools). The result has no pip.
set -eu
mkdir -p "$1"
dir=$(cd "$1" && pwd) libc=$2 here=$(cd "$(dirname "$0")" && pwd)
shift 2
mirror=$(sh "$here/debian.sh" mirror)
mkdir -p "$dir/source/lists/partial"
cd "$dir/source"

for suite in bookworm stable; do
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done > sources.list
apt() {  # apt-get with package lists of its own
    apt-get -qq -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$PWD/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Sandbox::User=root "$@"
}
apt update
apt source --download-only python3.13/stable libffi/bookworm
for source in *.orig.tar.[gx]z; do tar xf "$source" --no-same-owner; done

if [ "$libc" = musl ]; then
    # The kernel's headers are the same for every libc; and Python's configure asks the compiler for the platform's name.
    cpu=$(uname -m)
    mkdir kernel
    ln -s /usr/include/linux /usr/include/asm-generic "/usr/include/$cpu-linux-gnu/asm" kernel/
    cat > cc <<END
#!/bin/sh
case " \$* " in *-print-multiarch*) echo $cpu-linux-musl; exit;; esac
exec musl-gcc "\$@" -idirafter $PWD/kernel
END
    chmod +x cc
    export CC="$PWD/cc"
fi

trap '[ $? -eq 0 ] || tail -n 3 "$dir/build.log" >&2' EXIT
{
    ( cd libffi-*/
      ./configure -q --prefix="$dir/ffi" --disable-shared --with-pic --disable-docs --disable-multi-os-directory
      make -s -j2
      make -s install )
    mkdir build
    ( cd build
      CFLAGS=-O2 CPPFLAGS="-I$dir/ffi/include" LDFLAGS="-L$dir/ffi/lib" PKG_CONFIG_LIBDIR="$dir/ffi/lib/pkgconfig" \
          ../Python-3.13.*/configure -q --prefix="$dir/python" --without-ensurepip --disable-test-modules "$@"
      make -s -j2
      make -s install )
} > "$dir/build.log" 2>&1
cd "$dir"
rm -rf source ffi
