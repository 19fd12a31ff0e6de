#!/bin/sh
# Give a site its mailbox, its login and its From address on this relay; run again, it replaces password and quota.
#
# usage: add-site.sh SITES-FOLDER ADDRESS PASSWORD-FILE [QUOTA]
#        SITES-FOLDER   /etc/raypost-relay
#        PASSWORD-FILE  one line; - reads it from standard input
#        QUOTA          such as 20G; without it the default of dovecot.conf counts
# environment: SCHEME, how the password is kept (ARGON2ID)
# Postfix reads its tables when it starts: run `postfix reload` afterwards.
set -eu

[ $# -ge 3 ] || { sed -n '2,9p' "$0"; exit 2; }
sites=$1
address=$(printf %s "$2" | tr '[:upper:]' '[:lower:]')
quota=${4:-}
printf '%s\n' "$address" | grep -qE '^[a-z0-9._+-]+@[a-z0-9.-]+$' || { echo "add-site.sh: not an address: $2" >&2; exit 2; }
if [ "$3" = - ]; then read -r password; else read -r password < "$3"; fi
[ -n "$password" ] || { echo "add-site.sh: the password is empty" >&2; exit 2; }
hash=$(printf '%s\n%s\n' "$password" "$password" | doveadm pw -s "${SCHEME:-ARGON2ID}")
extra=
[ -z "$quota" ] || extra="userdb_quota_rule=*:storage=$quota"

# FILE LINE: replace the line that begins with the address, keep owner and mode of the file.
put() {
  { grep -vE "^$(printf %s "$address" | sed 's/[.+]/\\&/g')[ :]" "$sites/$1" || true; printf '%s\n' "$2"; } > "$sites/$1.new"
  cat "$sites/$1.new" > "$sites/$1"
  rm "$sites/$1.new"
}
umask 077
put vmailbox "$address x"
put sender_logins "$address $address"
put users "$address:$hash::::::$extra"
grep -q "^${address#*@} " "$sites/vdomains" || echo "${address#*@} x" >> "$sites/vdomains"
echo "$address may log in, send as $address and receive"
