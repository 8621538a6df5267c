"""Your own music: where a song's file lies, each artist of a song, and words that are spelled with signs (AC/DC, Ke$ha, 🔥)."""

from importlib import import_module

from alembic import op

revision = "0005"
down_revision = "0004"

filters, words = (import_module(f"rap_analyzer.migrations.versions.{name}") for name in ("0002_filters", "0003_words"))

# Bytes, since a file's name need not be text.
FILES = """
CREATE TABLE track_files (
    tenant_id text COLLATE "C" NOT NULL,
    track_id  bigint NOT NULL,
    path      bytea NOT NULL,
    PRIMARY KEY (tenant_id, track_id),
    FOREIGN KEY (tenant_id, track_id) REFERENCES tracks ON DELETE CASCADE
);
ALTER TABLE track_files ENABLE ROW LEVEL SECURITY;
ALTER TABLE track_files FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON track_files USING (tenant_id = (SELECT current_setting('app.tenant_id', true)))
    WITH CHECK (tenant_id = (SELECT current_setting('app.tenant_id', true)));
GRANT SELECT, INSERT, UPDATE, DELETE ON track_files TO rap_app;
"""

# squeezed: a name without signs and blanks (AC/DC: acdc, Ke$ha: kesha), or the signs themselves where there is nothing else.
# joined_words: what a name adds to its plain words: parts written together, letters of an abbreviation, letters without
# accents, signs by their numbers.
# Python's twins of both stand in search.fulltext.
SPELLING = r"""
CREATE FUNCTION unsigned_text(said text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN translate(regexp_replace(lower(normalize(left(coalesce(said, ''), 10000), NFKC)),
                                '([[:alnum:]])!(?=[[:alnum:]])', '\1i', 'g'), '$€@ё', 'seaе');
CREATE FUNCTION squeezed(said text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN left(coalesce(nullif(regexp_replace(unsigned_text(said), '[^[:alnum:]]+', '', 'g'), ''),
                     regexp_replace(coalesce(said, ''), '[[:space:]\uFE0F]+', '', 'g')), 500);
CREATE FUNCTION joined_words(said text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT coalesce(string_agg(word, ' '), '') FROM (
    SELECT regexp_replace(token, '[^[:alnum:]]+', '', 'g') AS word
    FROM regexp_split_to_table(unsigned_text(said), '[[:space:]]+') token
    WHERE token ~ '[[:alnum:]][^[:alnum:]]+[[:alnum:]]'
    UNION ALL SELECT token FROM regexp_split_to_table(unsigned_text(said), '[^[:alnum:]]+') token
    WHERE said ~ '[$€@!]' AND token <> ''
    UNION ALL SELECT regexp_replace(normalize(token, NFKD), '[\u0300-\u036f]', '', 'g')
    FROM regexp_split_to_table(unsigned_text(said), '[^[:alnum:]]+') token WHERE token ~ '[a-z]' AND token ~ '[^\u0001-\u007f]'
    UNION ALL SELECT regexp_replace(run[1], '[^[:alnum:]]+', '', 'g') FROM regexp_matches(unsigned_text(said),
        '(?<![[:alnum:]])(([[:alnum:]][^[:alnum:]]+){2,}[[:alnum:]])(?![[:alnum:]])', 'g') run
    UNION ALL SELECT 'zzsign' || to_hex(ascii(sign[1]))
    FROM regexp_matches(left(coalesce(said, ''), 1000), '([^[:alnum:][:space:]\uFE0F\u200D])', 'g') sign
    WHERE ascii(sign[1]) > 127 OR said !~ '[[:alnum:]]') w);
"""

# A comma or an ampersand may belong to one name (Tyler, The Creator), so the whole name stays beside its parts.
ARTISTS = r"""
CREATE FUNCTION artist_names(said text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT array_agg(DISTINCT lower(normalize(btrim(part)))) FROM unnest(said || regexp_split_to_array(said,
    '\s*[;,|]\s*|\s+(&|\+|/|x|×|vs\.?|and|и|feat\.?|ft\.?|featuring|with)\s+|'
    '\s*[(\[]\s*(feat\.?|ft\.?|featuring|with)\s+|[)\]]\s*$', 'i')) part
    WHERE btrim(part) <> '');
ALTER TABLE tracks ADD COLUMN artist_names text[] GENERATED ALWAYS AS (artist_names(left(artist, 2000))) STORED;
CREATE INDEX tracks_artists ON tracks USING gin (tenant_id, artist_names);
"""

COLUMNS = words.COLUMNS.partition("ALTER TABLE tracks ADD COLUMN words")
WORDS = COLUMNS[1] + COLUMNS[2].replace("plain_words(title))", "plain_words(title) || ' ' || joined_words(title))").replace(
    "plain_words(artist))", "plain_words(artist) || ' ' || joined_words(artist))").replace(
    "lower(plain_words(title || ' ' || artist))",
    "lower(plain_words(title || ' ' || artist) || ' ' || joined_words(title || ' ' || artist))")
TITLES = """
ALTER TABLE tracks ADD COLUMN title_key text COLLATE "C" GENERATED ALWAYS AS (squeezed(title)) STORED;
CREATE INDEX tracks_titles ON tracks (tenant_id, title_key);
"""
DROPPED = "DROP FUNCTION filter_similar, filter_walk, filter_tracks"

# `&&` and `@>` are not leakproof, so the search by artist has a guarded door as the search by words has one.
CREDITED = """
CREATE FUNCTION credited(in_artist text) RETURNS SETOF bigint LANGUAGE sql STABLE SECURITY DEFINER ROWS 50
SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT t.id FROM tracks t WHERE t.tenant_id = current_setting('app.tenant_id', true)
    AND t.artist_names @> ARRAY[lower(normalize(in_artist))] $$;
REVOKE ALL ON FUNCTION credited FROM PUBLIC;
GRANT EXECUTE ON FUNCTION credited TO rap_app;
"""
WHOLE = "t.artist_key = lower(normalize(p_artist))"
MATCHES = filters.MATCHES.replace(WHOLE, "t.id IN (SELECT a.id FROM tracks a WHERE a.artist_key = lower(normalize(p_artist)) "
                                "UNION ALL SELECT credited(p_artist))")
WALK = filters.WALK.replace(WHOLE, "t.artist_names @> ARRAY[lower(normalize(p_artist))]")
CONDITIONS = words.CONDITIONS.replace("t.artist_key = lower(normalize(in_artist))",
                                      "t.artist_names @> ARRAY[lower(normalize(in_artist))]")
FUNCTIONS = {**words.FUNCTIONS, "search_titles": {
    "asked": "asked text", "match": "t.title_key = squeezed(asked)",
    "score": "CASE WHEN lower(t.title) = lower(asked) THEN 1 ELSE 0.99 END"}}


def remake(functions: dict, conditions: str, old: str) -> None:
    "The search functions anew, in the hands of the loader."
    op.execute(f"SET LOCAL ROLE NONE; DROP FUNCTION {old}; SET LOCAL ROLE rap_owner")
    for name, parts in functions.items():
        op.execute(words.FUNCTION.format(name=name, conditions=conditions, **parts))
        words.give(name, "rap_loader")


LOAD = "SELECT '[1]'::halfvec(1), word_similarity('a', 'b')"  # loads both extensions, so that their settings are known


def upgrade() -> None:
    op.execute(LOAD)
    op.execute(FILES + SPELLING + ARTISTS)
    op.execute("ALTER TABLE tracks DROP COLUMN words, DROP COLUMN names;" + WORDS + TITLES)
    op.execute(CREDITED)
    words.give("credited", "rap_loader")
    op.execute(DROPPED)
    for function in (MATCHES, WALK, filters.SEARCH): op.execute(function)
    remake(FUNCTIONS, CONDITIONS, "search_words, search_names")


def downgrade() -> None:
    op.execute(LOAD)
    remake(words.FUNCTIONS, words.CONDITIONS, ", ".join(FUNCTIONS))
    op.execute(DROPPED)
    for function in (filters.MATCHES, filters.WALK, filters.SEARCH): op.execute(function)
    op.execute("SET LOCAL ROLE NONE; DROP FUNCTION credited; SET LOCAL ROLE rap_owner")
    op.execute("ALTER TABLE tracks DROP COLUMN words, DROP COLUMN names, DROP COLUMN title_key, DROP COLUMN artist_names;"
               + COLUMNS[1] + COLUMNS[2])
    op.execute("DROP FUNCTION artist_names, joined_words, squeezed, unsigned_text; DROP TABLE track_files")
