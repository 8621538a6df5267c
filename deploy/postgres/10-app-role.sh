#!/bin/sh
# Runs once, when the database is made: two roles that may log in and nothing more. `rap-analyzer setup` grants the rest. rap_app is the web
# service's and the workers'; rap_loader is the sweeper's, which hands out the jobs of every tenant, so policies do not bind it.
set -eu
psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv password RAP_APP_PASSWORD
\getenv loader RAP_LOADER_PASSWORD
CREATE ROLE rap_app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE ROLE rap_loader LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE BYPASSRLS PASSWORD :'loader';
SQL
