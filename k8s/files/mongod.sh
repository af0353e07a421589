# Starts a node of the replica set; the first one also makes the set, once.
set -eu
umask 077
# mongod takes no key that others could read, and a Secret's volume has groups.
cp /secret/keyfile /tmp/keyfile
if [ "${POD##*-}" = 0 ]; then
    mongosh --quiet --norc --nodb --file /scripts/initiate.js &
fi
exec mongod --replSet rs0 --keyFile /tmp/keyfile --bind_ip_all --port "${PORT:-27017}" --dbpath "${DBPATH:-/data/db}"
