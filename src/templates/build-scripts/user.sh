# Makes an account, with the image's own means, when there is none of that name. Run as root in the guest.
#     $1 how programs are called: a busybox, or nothing   $2 the name   $3 the table of accounts, for a test
set -eu
name=$2

# The last line may lack its end.
while IFS=: read -r one rest || [ -n "$one" ]; do
  [ "$one" != "$name" ] || exit 0
done <"${3:-/etc/passwd}"

if command -v useradd >/dev/null; then
  useradd --create-home "$name"
elif command -v adduser >/dev/null; then
  adduser -D "$name"
else
  echo "there is no account '$name', and the image has no useradd and no adduser to make one" >&2
  exit 1
fi
