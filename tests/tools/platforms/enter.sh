#!/bin/sh
# enter.sh ROOT CPU PROJECT PACKAGES COMMAND...: run COMMAND inside ROOT, with this machine's /proc and /dev (so also its
# /dev/shm), an empty /tmp, the folder PROJECT at /mnt/project and the folder PACKAGES at /mnt/packages. All of it is
# mounted in a namespace of the command's own, and gone with it. CPU is "native", or the name of the qemu that emulates
# the root's CPU: that one is made known to the kernel in a user namespace (Linux 6.7 and later), unless the kernel knows
# it already. Needs root.
set -eu
export ROOT="$1" CPU="$2" PROJECT="$3" PACKAGES="$4"
shift 4
known=/proc/sys/fs/binfmt_misc/qemu-$CPU
# The cheap way to sign pointers: the proper one is most of an emulated program's time.
if [ "$CPU" = aarch64 ]; then export QEMU_CPU=max,pauth-impdef=on; fi
# F: the kernel holds the emulator open, so it works inside a root that has none.
if [ -e "$known" ] && grep -q '^flags:.*F' "$known"; then CPU=native; fi

inside='
mount --rbind "$PROJECT" "$ROOT/mnt/project"
mount --rbind "$PACKAGES" "$ROOT/mnt/packages"
mount -t tmpfs tmpfs "$ROOT/tmp"
if [ "$CPU" != native ]; then
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    tr -d "\n" < "/usr/lib/binfmt.d/qemu-$CPU.conf" > /proc/sys/fs/binfmt_misc/register
fi
mount --rbind /proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
exec chroot "$ROOT" env -C /mnt/project "$@"'

if [ "$CPU" = native ]; then
    exec unshare --mount --propagation private sh -euc "$inside" enter "$@"
fi
# A user namespace has no users at first, and only somebody outside may put more than one in.
( while [ "$(readlink "/proc/$$/ns/user")" = "$(readlink /proc/self/ns/user)" ]; do sleep 0.01; done
  for map in gid_map uid_map; do echo 0 0 65536 > "/proc/$$/$map"; done ) < /dev/null &
# Only what is started as root has its powers, hence the second unshare.
exec unshare --user sh -euc '
while [ "$(id -u)" != 0 ]; do sleep 0.01; done
exec unshare --mount --propagation private sh -euc "$@"' enter "$inside" enter "$@"
