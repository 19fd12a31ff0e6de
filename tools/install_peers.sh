#!/bin/sh
# Installs the real peers that the tests talk to, where they are missing: Debian packages, by sudo when not root.
set -eu
want=""
need() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || want="$want $2"; }
need gpg gnupg
need postfix postfix
need dovecot "dovecot-core dovecot-imapd dovecot-lmtpd"
need storescp dcmtk
need Orthanc orthanc
need openssl openssl
postgresql=""
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || postgresql="postgresql"
want="$want $postgresql"
[ -n "$(echo $want)" ] || exit 0
echo "The tests talk to real peers. Installing:$want"
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
if [ -n "$postgresql" ]; then
    # The tests want its programs alone: without this the package makes a cluster and starts it as a service.
    no_cluster=/etc/postgresql-common/createcluster.d/raypost-peers.conf
    $as_root mkdir -p "${no_cluster%/*}"
    trap '$as_root rm -f "$no_cluster"' EXIT
    echo "create_main_cluster = false" | $as_root tee "$no_cluster" >/dev/null
fi
echo "postfix postfix/main_mailer_type select No configuration" | $as_root debconf-set-selections
$as_root apt-get -qq update
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600 install -y --no-install-recommends $want >/dev/null
