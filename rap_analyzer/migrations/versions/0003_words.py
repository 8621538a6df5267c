"""Words: what a track says, as a tsvector in two languages, and its names for typos; both behind functions that name the tenant."""

from alembic import op

revision = "0003"
down_revision = "0002"

# Stemmed in two languages and without stop words: "The Who" is a name. Cyrillic words go to one stemmer, Latin ones to the other.
DICTIONARIES = """
CREATE TEXT SEARCH DICTIONARY rap_english (TEMPLATE = snowball, Language = english);
CREATE TEXT SEARCH DICTIONARY rap_russian (TEMPLATE = snowball, Language = russian);
CREATE TEXT SEARCH CONFIGURATION rap (COPY = russian);
ALTER TEXT SEARCH CONFIGURATION rap ALTER MAPPING FOR asciiword, asciihword, hword_asciipart WITH rap_english;
ALTER TEXT SEARCH CONFIGURATION rap ALTER MAPPING FOR word, hword, hword_part WITH unaccent, rap_russian;
"""

# Letters and digits only, so that nothing is taken for an address, a path or an operator; bounded, since a tsvector is.
PLAIN_WORDS = """
CREATE FUNCTION plain_words(said text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(translate(normalize(left(coalesce(said, ''), 100000), NFC), 'ёЁ', 'еЕ'), '[^[:alnum:]]+', ' ', 'g');
"""

# The genres stand a second time on the track: a generated column cannot read another table.
COLUMNS = """
ALTER TABLE tracks ADD COLUMN genre_words text NOT NULL DEFAULT '';
ALTER TABLE tracks NO FORCE ROW LEVEL SECURITY;
ALTER TABLE track_genres NO FORCE ROW LEVEL SECURITY;
UPDATE tracks t SET genre_words = g.words FROM (
    SELECT tenant_id, track_id, string_agg(genre, ' ' ORDER BY rank) AS words FROM track_genres GROUP BY 1, 2) g
WHERE (g.tenant_id, g.track_id) = (t.tenant_id, t.id);
ALTER TABLE tracks FORCE ROW LEVEL SECURITY;
ALTER TABLE track_genres FORCE ROW LEVEL SECURITY;
ALTER TABLE tracks ADD COLUMN words tsvector GENERATED ALWAYS AS (
    setweight(to_tsvector('rap', plain_words(title)), 'A') || setweight(to_tsvector('rap', plain_words(artist)), 'B')
    || setweight(to_tsvector('rap', plain_words(genre_words || ' ' || coalesce(mood, ''))), 'C')
    || setweight(to_tsvector('rap', plain_words(lyrics)), 'D')) STORED;
ALTER TABLE tracks ADD COLUMN names text GENERATED ALWAYS AS (lower(plain_words(title || ' ' || artist))) STORED;
CREATE INDEX tracks_words ON tracks USING gin (tenant_id, words);
CREATE INDEX tracks_names ON tracks USING gin (tenant_id, names gin_trgm_ops);
"""

CONDITIONS = """t.tenant_id = current_setting('app.tenant_id', true)
    AND (in_mood IS NULL OR t.mood_key = lower(normalize(in_mood)))
    AND (in_artist IS NULL OR t.artist_key = lower(normalize(in_artist)))
    AND (bpm_from IS NULL OR t.bpm >= bpm_from) AND (bpm_to IS NULL OR t.bpm <= bpm_to)
    AND (year_from IS NULL OR t.year >= year_from) AND (year_to IS NULL OR t.year <= year_to)
    AND (in_genre IS NULL OR EXISTS (SELECT FROM track_genres g
         WHERE (g.tenant_id, g.genre_key, g.track_id) = (t.tenant_id, lower(normalize(in_genre)), t.id)))"""

# They run with the rights of rap_loader, whom no policy binds, so that @@ and <% can use their indexes; they name the tenant
# themselves, take values and no conditions, and give ids and scores. pg_temp comes last: a caller's table must not pass for ours.
FUNCTION = """
CREATE FUNCTION {name}({asked}, most int, in_genre text, in_mood text, bpm_from real, bpm_to real, year_from int,
                       year_to int, in_artist text)
RETURNS TABLE (track_id bigint, score real) LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET plan_cache_mode = force_custom_plan
SET pg_trgm.word_similarity_threshold = 0.45 AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT t.id, ({score})::real FROM tracks t
    WHERE {match} AND {conditions}
    ORDER BY 2 DESC, t.popularity DESC NULLS LAST, t.id LIMIT most;
END $$;
REVOKE ALL ON FUNCTION {name} FROM PUBLIC;
GRANT EXECUTE ON FUNCTION {name} TO rap_app;
"""
# The score of words: how many of the parts are there (none are counted where none are given), then how prominently (below one).
FUNCTIONS = {
    "search_words": {"asked": "asked tsquery, parts tsquery[]", "match": "t.words @@ asked",
                     "score": "CASE WHEN cardinality(parts) = 0 THEN 0 "
                              "ELSE (SELECT count(*) FROM unnest(parts) p WHERE t.words @@ p) END "
                              "+ ts_rank('{.1, .3, .6, 1}', t.words, asked, 32)"},
    "search_names": {"asked": "asked text", "match": "asked <% t.names", "score": "word_similarity(asked, t.names)"},
}


def give(name: str, to: str) -> None:
    "Hand a function to another role, which must be allowed to create in the schema for a moment."
    op.execute(f"GRANT CREATE ON SCHEMA public TO {to}")
    op.execute("SET LOCAL ROLE NONE")
    op.execute(f"ALTER FUNCTION {name} OWNER TO {to}")
    op.execute("SET LOCAL ROLE rap_owner")
    op.execute(f"REVOKE CREATE ON SCHEMA public FROM {to}")


def upgrade() -> None:
    op.execute(DICTIONARIES + PLAIN_WORDS + COLUMNS)
    for name, parts in FUNCTIONS.items():
        op.execute(FUNCTION.format(name=name, conditions=CONDITIONS, **parts))
        give(name, "rap_loader")


def downgrade() -> None:
    op.execute("SET LOCAL ROLE NONE; DROP FUNCTION search_words, search_names; SET LOCAL ROLE rap_owner")
    op.execute("ALTER TABLE tracks DROP COLUMN words, DROP COLUMN names, DROP COLUMN genre_words; DROP FUNCTION plain_words; "
               "DROP TEXT SEARCH CONFIGURATION rap; DROP TEXT SEARCH DICTIONARY rap_english, rap_russian")
