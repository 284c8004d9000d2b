# Run by mmdebstrap on the finished root filesystem, outside of it and as (real or mapped) root. "$1" is its folder.
# $guest_sources and $prepare are set by lines put before this text.
set -eu
root=$1

inside() {
  chroot "$root" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 LC_ALL=C.UTF-8 "$@"
}

inside useradd --create-home --uid 1000 --user-group --shell /bin/bash --comment '' user
chmod 755 "$root/home/user"
printf 'user ALL=(ALL:ALL) NOPASSWD: ALL\n' >"$root/etc/sudoers.d/90-user"
chmod 440 "$root/etc/sudoers.d/90-user"

printf 'sandbox\n' >"$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
rm -f "$root/etc/resolv.conf"
printf 'nameserver 8.8.8.8\nnameserver 1.1.1.1\noptions timeout:2\n' >"$root/etc/resolv.conf"
printf 'LANG=C.UTF-8\n' >"$root/etc/default/locale"

# One identity for each sandbox, given to it when it is handed out.
: >"$root/etc/machine-id"
if [ -e "$root/var/lib/dbus/machine-id" ]; then
  ln -sf /etc/machine-id "$root/var/lib/dbus/machine-id"
fi
rm -f "$root"/etc/ssh/ssh_host_* "$root/var/lib/systemd/random-seed" "$root/etc/apt/apt.conf.d/99mmdebstrap"
if [ -n "$guest_sources" ]; then
  printf '%s' "$guest_sources" >"$root/etc/apt/sources.list"
fi

# pip installs for the user without asking for a virtual environment: the whole machine is one.
printf '[global]\nbreak-system-packages = true\ndisable-pip-version-check = true\n' >"$root/etc/pip.conf"

if [ -n "$prepare" ]; then
  inside su user -s /bin/sh -c "cd && $prepare"
fi
# mmdebstrap empties /tmp itself, at its end: until then its own apt configuration is there, and without it its last calls
# of apt would work on the host.
rm -rf "$root"/var/tmp/* "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old
find "$root/var/log" "$root/var/lib/apt/lists" "$root/var/cache/apt" -type f -delete
