# Writes what login shells are told. Run as root in the guest.
#     $1 how programs are called: a busybox, or nothing   $2 the file   $3 its text
set -eu
bb=$1 file=$2 text=$3

$bb mkdir -p "${file%/*}"
# A link there is replaced, not followed.
$bb rm -f "$file"
printf '%s' "$text" >"$file"
$bb chmod 644 "$file"
