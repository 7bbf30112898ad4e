#!/usr/bin/env bash
# Makes the secrets of the Compose files, in secrets/, once: what is there stays. Compose mounts them as files; none is in the
# environment of a container, or in what `docker inspect` shows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

mkdir -p secrets
# Nobody else comes in. The files can be read by all who do: each container has a user of its own, and sees only what it is given.
chmod 700 secrets
umask 022

secret() { # name; 64 characters that mean nothing in an address, a file of settings or a shell
    [ -s "secrets/$1" ] || od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"secrets/$1"
    cat "secrets/$1"
}
file() { # name, content on standard input
    cat >"secrets/.new" && mv secrets/.new "secrets/$1"
}

postgres=$(secret postgres_password)
printf 'postgres://answerd:%s@postgres:5432/answerd' "$postgres" | file postgres_url

qdrant=$(secret qdrant_api_key)
file qdrant.yaml <<YAML
service:
  api_key: $qdrant
YAML

redis=$(secret redis_password)
printf 'redis://:%s@redis:6379/0' "$redis" | file redis_url
# On no disk; what has been used least lately makes room.
file redis.conf <<CONF
requirepass $redis
save ""
appendonly no
maxmemory 384mb
maxmemory-policy volatile-lru
dir /data
CONF

nats=$(secret nats_password) publisher=$(secret nats_publisher_password)
file nats.conf <<CONF
server_name: answerd
port: 4222
http: "127.0.0.1:8222"
max_payload: 1MB
jetstream { store_dir: /data, max_mem: 256MB, max_file: 10GB }
authorization {
  users: [
    { user: answerd, password: "$nats" }
    # Publishes document events, and hears whether the stream has them.
    { user: publisher, password: "$publisher", permissions: { publish: "documents.>", subscribe: "_INBOX.>" } }
  ]
}
CONF
printf 'secrets/: %s\n' "$(cd secrets && printf '%s ' *)"
