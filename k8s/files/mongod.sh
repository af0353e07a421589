# Starts a node of the replica set; the first node also creates the set, once.
set -eu
umask 077
# mongod refuses a key that its group can read, and files of a Secret's volume are readable by a group.
cp /secret/keyfile /tmp/keyfile
if [ "${POD##*-}" = 0 ]; then
    mongosh --quiet --norc --nodb --file /scripts/initiate.js &
fi
exec mongod --replSet rs0 --keyFile /tmp/keyfile --bind_ip_all --port "${PORT:-27017}" --dbpath "${DBPATH:-/data/db}"
