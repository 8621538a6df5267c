#!/bin/sh
# Runs once, when the database is made: the web service's role, which may log in and nothing more. `rap-analyzer setup` grants the rest.
set -eu
psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv password RAP_APP_PASSWORD
CREATE ROLE rap_app LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
SQL
