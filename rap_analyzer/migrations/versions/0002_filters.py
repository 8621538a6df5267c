"""Filters: keys to compare with, indexes that row-level security lets through, and the search that chooses its way."""

from alembic import op

revision = "0002"
down_revision = "0001"

# `lower` is not leakproof: below a policy PostgreSQL will not look it up in an index. A stored key is compared with `=`, which is.
KEYS = """
ALTER TABLE tracks
    ADD mood_key   text COLLATE "C" GENERATED ALWAYS AS (lower(normalize(mood))) STORED,
    ADD artist_key text COLLATE "C" GENERATED ALWAYS AS (lower(normalize(artist))) STORED;
ALTER TABLE track_genres
    ADD genre_key  text COLLATE "C" GENERATED ALWAYS AS (lower(normalize(genre))) STORED;
CREATE INDEX tracks_artist    ON tracks (tenant_id, artist_key) INCLUDE (id);
CREATE INDEX tracks_mood      ON tracks (tenant_id, mood_key, year) INCLUDE (id, bpm);
CREATE INDEX tracks_year      ON tracks (tenant_id, year, bpm) INCLUDE (id, mood_key);
CREATE INDEX tracks_bpm       ON tracks (tenant_id, bpm) INCLUDE (id, mood_key, year);
CREATE INDEX track_genres_key ON track_genres (tenant_id, genre_key, track_id);
"""

FILTER = "p_genre text, p_mood text, p_bpm_lo real, p_bpm_hi real, p_year_lo int, p_year_hi int, p_artist text"
GIVEN = FILTER.replace(" text", "").replace(" real", "").replace(" int", "")
# With a plan made for the values (force_custom_plan), a condition that nobody asked for is folded away.
ASKED = """(p_mood IS NULL OR t.mood_key = lower(normalize(p_mood)))
        AND (p_artist IS NULL OR t.artist_key = lower(normalize(p_artist)))
        AND (p_bpm_lo IS NULL OR t.bpm >= p_bpm_lo) AND (p_bpm_hi IS NULL OR t.bpm <= p_bpm_hi)
        AND (p_year_lo IS NULL OR t.year >= p_year_lo) AND (p_year_hi IS NULL OR t.year <= p_year_hi)"""
GENRE = "SELECT g.track_id FROM track_genres g WHERE g.genre_key = lower(normalize(p_genre))"

# Every function runs with the rights of its caller, so the policies hold inside.
MATCHES = f"""
CREATE FUNCTION filter_tracks({FILTER}, p_at_most int) RETURNS bigint[]
LANGUAGE plpgsql STABLE SECURITY INVOKER SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    IF p_genre IS NULL THEN
        RETURN ARRAY(SELECT t.id FROM tracks t WHERE {ASKED} LIMIT p_at_most);
    ELSIF num_nonnulls(p_mood, p_artist, p_bpm_lo, p_bpm_hi, p_year_lo, p_year_hi) = 0 THEN
        RETURN ARRAY({GENRE} LIMIT p_at_most);
    END IF;
    RETURN ARRAY(SELECT t.id FROM tracks t WHERE t.id IN ({GENRE}) AND {ASKED} LIMIT p_at_most);
END $$;
"""

# The conditions stand in the SELECT list, as a question about one track: in the WHERE of the walk the planner is free to turn
# them into a join that reads every match for each candidate. Neighbours come out of order (relaxed) and are sorted at the end.
WALK = f"""
CREATE FUNCTION filter_walk(q halfvec, p_model text, p_k int, p_scan int, {FILTER}) RETURNS TABLE (track_id bigint, distance float8)
LANGUAGE plpgsql STABLE SECURITY INVOKER SET plan_cache_mode = force_custom_plan
SET hnsw.iterative_scan = relaxed_order AS $$
BEGIN
    RETURN QUERY WITH near AS MATERIALIZED (
        SELECT c.track_id, c.distance FROM (
            SELECT e.track_id, e.embedding <#> q AS distance,
                   (SELECT true FROM tracks t WHERE t.id = e.track_id AND {ASKED}
                    AND (p_genre IS NULL OR EXISTS ({GENRE} AND g.track_id = t.id))) AS ok
            FROM embeddings e WHERE e.model_id = p_model ORDER BY e.embedding <#> q LIMIT p_scan) c
        WHERE c.ok LIMIT p_k)
    SELECT n.track_id, n.distance FROM near n ORDER BY n.distance + 0;
END $$;
"""

EXACT = """SELECT e.track_id, (e.embedding <#> q) + 0, {how}, n FROM embeddings e
        WHERE e.track_id = ANY (ids) AND e.model_id = p_model ORDER BY 2 LIMIT p_k"""

# The array of matches is a value that no plan should look into: planning with thousands of constants costs more than the search.
SEARCH = f"""
CREATE FUNCTION filter_similar(q halfvec, p_model text, p_k int, p_at_most int, p_scan int, {FILTER})
RETURNS TABLE (track_id bigint, distance float8, how text, matches int)
LANGUAGE plpgsql STABLE SECURITY INVOKER SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    ids bigint[]; n int; near bigint[]; far float8[];
BEGIN
    IF q IS NULL THEN RETURN QUERY SELECT NULL::bigint, NULL::float8, 'no query', 0; RETURN; END IF;
    ids := filter_tracks({GIVEN}, p_at_most + 1); n := cardinality(ids);
    IF n > p_at_most THEN
        SELECT array_agg(w.track_id), array_agg(w.distance) INTO near, far FROM filter_walk(q, p_model, p_k, p_scan, {GIVEN}) w;
        IF cardinality(near) = p_k THEN
            RETURN QUERY SELECT x.*, 'iterative', n FROM unnest(near, far) x; RETURN;
        END IF;
        ids := filter_tracks({GIVEN}, NULL); n := cardinality(ids);
        RETURN QUERY {EXACT.format(how="'exact after iterative'")}; RETURN;
    END IF;
    RETURN QUERY {EXACT.format(how="'exact'")};
END $$;
"""


def upgrade() -> None:
    op.execute(KEYS)
    op.execute("SELECT '[1]'::halfvec(1)")  # loads pgvector, so that its settings are known below
    for function in (MATCHES, WALK, SEARCH): op.execute(function)


def downgrade() -> None:
    op.execute("DROP FUNCTION filter_similar, filter_walk, filter_tracks")
    op.execute("DROP INDEX track_genres_key, tracks_bpm, tracks_year, tracks_mood, tracks_artist")
    op.execute("ALTER TABLE track_genres DROP genre_key; ALTER TABLE tracks DROP artist_key, DROP mood_key")
