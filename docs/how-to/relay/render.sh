#!/bin/sh
# Write main.cf, master.cf and dovecot.conf with the names of a values file filled in.
#
# usage: render.sh VALUES TARGET-FOLDER
set -eu

[ $# -eq 2 ] || { sed -n '2,4p' "$0"; exit 2; }
here=$(dirname -- "$(readlink -f -- "$0")")
script=$(grep -E '^[A-Z_]+=' "$1" | sed -E 's/[&|\\]/\\&/g; s/^([A-Z_]+)=(.*)$/s|@\1@|\2|g/')
for name in main.cf master.cf dovecot.conf; do
  sed -e "$script" "$here/$name" > "$2/$name"
  if grep -nE '^[^#]*@[A-Z_]+@' "$2/$name"; then
    echo "render.sh: $1 has no value for a name in $name" >&2
    exit 1
  fi
done
