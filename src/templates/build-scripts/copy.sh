# Puts what an archive holds under a path to another, as COPY of a Dockerfile does. Run as root in the guest.
#     $1 how programs are called: a busybox, or nothing   $2 the archive   $3 path in it, relative   $4 target, absolute
#     $5 `folder`: the target is one   $6 owner, for chown   $7 mode, octal, or nothing
set -eu
bb=$1 archive=$2 source=$3 target=$4 kind=$5 owner=$6 mode=$7

fail() {
  echo "$*" >&2
  exit 1
}

stage=$archive.files
trap '$bb rm -rf "$stage" "$archive"' EXIT
$bb rm -rf "$stage"
$bb mkdir -p "$stage"
case $($bb od -An -tx1 -N2 "$archive") in
  *1f*8b*) $bb tar -xzof "$archive" -C "$stage" ;;
  *) $bb tar -xof "$archive" -C "$stage" ;;
esac

entry=$stage
[ "$source" = . ] || entry=$stage/$source
[ -e "$entry" ] || [ -L "$entry" ] || fail "source path does not exist: $source"
# The links themselves: what they lead to is not ours.
$bb chown -Rh "$owner" "$entry"
[ -z "$mode" ] || [ -L "$entry" ] || $bb chmod -R "$mode" "$entry"

# One that is no folder, to a path that is none either.
put() {
  if [ -d "$2" ] && [ ! -L "$2" ]; then fail "cannot replace a folder with a file: $2"; fi
  # A link there is replaced, not followed.
  $bb rm -f "$2"
  $bb mv "$1" "$2"
}

# The content of a folder, into one that is there. Folders that are there keep their owner and mode.
merge() {
  local from=$1 to=$2 one name
  for one in "$from"/* "$from"/.[!.]* "$from"/..?*; do
    [ -e "$one" ] || [ -L "$one" ] || continue
    name=${one##*/}
    if [ -d "$one" ] && [ ! -L "$one" ]; then
      if [ -d "$to/$name" ]; then
        merge "$one" "$to/$name"
        continue
      fi
      [ ! -e "$to/$name" ] || fail "cannot replace a file with a folder: $to/$name"
      $bb rm -f "$to/$name"
      $bb mv "$one" "$to/$name"
    else
      put "$one" "$to/$name"
    fi
  done
}

if [ -d "$entry" ] && [ ! -L "$entry" ]; then
  if [ ! -e "$target" ] && [ ! -L "$target" ]; then
    $bb mkdir -p "${target%/*}/"
    $bb mv "$entry" "$target"
  else
    $bb mkdir -p "$target"
    merge "$entry" "$target"
  fi
else
  [ -z "$kind" ] || $bb mkdir -p "$target"
  if [ -d "$target" ]; then
    put "$entry" "${target%/}/${entry##*/}"
  else
    $bb mkdir -p "${target%/*}/"
    put "$entry" "$target"
  fi
fi
