# Takes from the disk what is one machine's own, and what steps left; says which shells there are. Run as root in the guest.
#     $1 how programs are called: a busybox, or nothing
set -eu
bb=$1

# A link there is replaced, not followed.
put() {
  $bb rm -rf "$1"
  printf '%s' "$2" >"$1"
  $bb chmod 644 "$1"
}

$bb rm -rf /.coppice-build
put /etc/hostname 'sandbox
'
put /etc/machine-id ''
[ -L /var/lib/dbus/machine-id ] || [ ! -e /var/lib/dbus/machine-id ] || put /var/lib/dbus/machine-id ''
hosts=$($bb grep -v '^127\.0\.1\.1' /etc/hosts 2>/dev/null || :)
put /etc/hosts "$hosts
"
for shell in /bin/bash /bin/sh; do [ ! -x "$shell" ] || echo "$shell"; done
[ ! -x /usr/bin/sudo ] || echo sudo
