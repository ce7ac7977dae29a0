#!/bin/sh
# room.sh COMMAND...: run COMMAND with a /dev/shm, System V semaphores and process numbers of its own. Semaphores of other
# programs are out of sight, whatever COMMAND leaves behind goes with it, and the death of this script, or of the one that
# started it, kills everything it started. What is left at the end is told on stderr, and is a failure (status 99).
# Where it is not root, it needs a kernel that lets every user have namespaces.
user=
[ "$(id -u)" = 0 ] || user='--user --map-root-user'
exec setpriv --pdeathsig KILL unshare $user --mount --propagation private --ipc --pid --fork --kill-child sh -uc '
mount -t proc proc /proc && mount -t tmpfs -o mode=1777,size=256m tmpfs /dev/shm || exit 98
"$@"  # not exec: process 1 would not notice signals it has no handler for
status=$?
left="$(ls -A /dev/shm)$(sed 1d /proc/sysvipc/sem)"
[ -z "$left" ] || { echo "left behind in /dev/shm, or as sets:" $left >&2; [ $status -ne 0 ] || status=99; }
exit $status' room "$@"
