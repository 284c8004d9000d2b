# Runs a command where a template's root filesystem and a layer over it are one, read-only. In a mount namespace of its own,
# with which everything mounted here goes.
#     $1 root filesystem   $2 layer   $3 where: an empty folder   then the command
set -eu
rootfs=$1 layer=$2 at=$3
shift 3

mount -t tmpfs -o mode=0700,size=1m,nosuid,nodev,noexec coppice "$at"
cd "$at"
mkdir rootfs layer
mount -t ext4 -o loop,ro,noload,nosuid,nodev,noexec "$rootfs" rootfs
mount -t ext4 -o loop,ro,noload,nosuid,nodev,noexec "$layer" layer
# Over the scratch folders: whoever walks the result meets nothing of them. xino: it is one device to them.
mount -t overlay -o ro,nosuid,nodev,noexec,redirect_dir=follow,xino=on,lowerdir=layer/upper:rootfs coppice "$at"
cd /
# What jails are mounted over must be folders, not links that lead elsewhere.
for name in dev etc proc run sys tmp; do
  if [ -L "$at/$name" ] || [ ! -d "$at/$name" ]; then
    echo "/$name is no folder" >&2
    exit 1
  fi
done
exec "$@"
