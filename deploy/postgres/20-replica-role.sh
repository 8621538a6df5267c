#!/bin/sh
# Runs once, when the database is made: a role that may read the server's log and nothing else, for the service `replica`.
set -eu
psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv password RAP_REPLICA_PASSWORD
CREATE ROLE rap_replica LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
SQL
echo "host replication rap_replica all scram-sha-256" >> "$PGDATA/pg_hba.conf"
