#!/usr/bin/env bash
# Packs the images of the examples from Debian's packages: build.sh OUTPUT-DIR [PINTLE]
# Needs root, and mmdebstrap (installed when missing). A tar that exists already is kept.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh OUTPUT-DIR [PINTLE]}
pintle=${2:-pintle}
mkdir -p "$out"

command -v mmdebstrap >/dev/null || { apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq mmdebstrap; }

# pack NAME PACKAGES [pintle image pack flags…]: the image pintle.dev/examples/NAME in OUT/NAME.tar
pack() {
  local name=$1 packages=$2 root
  shift 2
  local tar=$out/${name%%:*}.tar
  if [ -f "$tar" ]; then return; fi
  echo "packing $name from Debian's packages: ${packages//,/ }"
  root=$(mktemp -d)
  mmdebstrap --quiet --variant=minbase --include="$packages" \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    bookworm "$root" >"$out/${name%%:*}.log" 2>&1 || { tail -5 "$out/${name%%:*}.log"; rm -rf "$root"; return 1; }
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*
  if [ -d "$here/${name%%:*}" ]; then cp -a "$here/${name%%:*}/." "$root/"; fi
  "$pintle" image pack "$root" --name "pintle.dev/examples/$name" --output "$tar" "$@"
  rm -rf "$root"
}

pack nginx:1.22 nginx-light,curl --entrypoint nginx --cmd -g --cmd 'daemon off; error_log /dev/stderr info;' &
pack postgres:15 postgresql-15 --entrypoint /usr/local/bin/postgres-entrypoint --env PGDATA=/var/lib/postgresql/data \
  --env PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin &
pack python:3.11 python3-minimal,python3-psycopg2 --entrypoint python3 --env PYTHONUNBUFFERED=1 &
failed=0
for job in $(jobs -p); do wait "$job" || failed=1; done
exit $failed
