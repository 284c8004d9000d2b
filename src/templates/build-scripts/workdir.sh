# Makes a folder and those above it; the new ones belong to the owner. Run as root in the guest.
#     $1 how programs are called: a busybox, or nothing   $2 the folder, absolute   $3 owner, for chown
set -eu
bb=$1 target=$2 owner=$3

[ ! -d "$target" ] || exit 0
first=$target
above=${target%/*}
while [ -n "$above" ] && [ ! -d "$above" ]; do
  first=$above
  above=${above%/*}
done
$bb mkdir -p "$target"
$bb chown -Rh "$owner" "$first"
