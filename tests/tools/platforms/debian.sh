#!/bin/sh
# What this machine's own apt says of Debian, for the scripts beside this one.
#   debian.sh mirror                            print the mirror apt uses here
#   debian.sh root ARCH SUITE DIR [PACKAGES]    unpack a Debian root with python3 and PACKAGES (comma-separated) into DIR
# A root is unpacked and not configured: that takes seconds, works for every CPU, and Python runs in it.
# Needs root, mmdebstrap and arch-test; for another CPU qemu-user-static too.
set -eu

mirror() {
    . /etc/os-release
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk -v release="$VERSION_CODENAME" '$1 == release { print $2; found = 1; exit } END { exit !found }' ||
        { echo "apt knows no mirror of $VERSION_CODENAME on this machine" >&2; exit 1; }
}

root() {
    arch=$1 suite=$2 dir=$3 packages=${4:-}
    hook=
    # Before Debian 13 nothing in the packages themselves makes /bin, /lib and /sbin links into /usr.
    [ "$suite" != bookworm ] || hook=--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr
    mmdebstrap --quiet --variant=extract --architectures="$arch" $hook \
        --aptopt='Acquire::Check-Valid-Until "false"' \
        --include="python3,libc-bin,base-files,coreutils,dash,util-linux,mount${packages:+,$packages}" \
        "$suite" "$dir" "$(mirror)"
    # No package was configured, so nobody wrote the files that say who the users are.
    echo 'root:x:0:0:root:/root:/bin/sh' > "$dir/etc/passwd"
    echo 'nobody:x:65534:65534:nobody:/nonexistent:/bin/false' >> "$dir/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' > "$dir/etc/group"
    mkdir -p "$dir/proc" "$dir/dev" "$dir/mnt/project" "$dir/mnt/packages"
    rm -rf "$dir"/var/cache/apt/* "$dir"/var/lib/apt/lists/*
}

"$@"
