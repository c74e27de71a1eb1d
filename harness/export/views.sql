-- Views over the tables of `parity export`; run it in the folder that holds them:
--   cd export && duckdb -init views.sql
-- The columns are described in schema.md beside this file.

CREATE OR REPLACE VIEW renders   AS SELECT * FROM 'renders.parquet';
CREATE OR REPLACE VIEW pairs     AS SELECT * FROM 'pairs.parquet';
CREATE OR REPLACE VIEW scores    AS SELECT * FROM 'scores.parquet';
CREATE OR REPLACE VIEW distances AS SELECT * FROM 'distances.parquet';
CREATE OR REPLACE VIEW findings  AS SELECT * FROM 'findings.parquet';
CREATE OR REPLACE VIEW evidence  AS SELECT * FROM 'evidence.parquet';
CREATE OR REPLACE VIEW blocks    AS SELECT * FROM 'blocks.parquet';

-- The newest verdict on every pair.
CREATE OR REPLACE VIEW newest AS
SELECT * FROM pairs
QUALIFY row_number() OVER (PARTITION BY "case", model, reference, candidate ORDER BY created DESC, run DESC) = 1;

-- Each metric of the newest verdict over the seeds, beside its floor: the reference rendered again.
CREATE OR REPLACE VIEW score_summary AS
SELECT s."case", s.candidate, s.metric, any_value(s.weights) AS weights, any_value(s.unit) AS unit,
       count(s.value) FILTER (s.against = 'candidate') AS scored,
       count(s.unscored) FILTER (s.against = 'candidate') AS unscored,
       median(s.value) FILTER (s.against = 'candidate') AS median_value,
       CASE WHEN any_value(s.higher_is_better) THEN min(s.value) FILTER (s.against = 'candidate')
            ELSE max(s.value) FILTER (s.against = 'candidate') END AS worst_value,
       CASE WHEN any_value(s.higher_is_better) THEN min(s.value) FILTER (s.against = 'floor')
            ELSE max(s.value) FILTER (s.against = 'floor') END AS worst_floor
FROM scores s JOIN newest n USING (run, "case", candidate)
GROUP BY ALL;

-- What a variant costs: seconds and memory of its finished renders, by model and hardware.
CREATE OR REPLACE VIEW costs AS
SELECT model, variant, gpu, cpu, count(*) AS renders, median(render_s) AS median_render_s,
       median(open_s) AS median_open_s, max(peak_host_gib) AS peak_host_gib,
       max(peak_cuda_gib) AS peak_cuda_gib
FROM renders WHERE status = 'ok' GROUP BY ALL;

-- What went wrong, most frequent first.
CREATE OR REPLACE VIEW failures AS
SELECT status, variant, message, count(*) AS renders
FROM renders WHERE status <> 'ok' GROUP BY ALL ORDER BY renders DESC;

-- The checks of the newest verdicts by how near they are to their limit, the nearest first.
CREATE OR REPLACE VIEW nearest AS
SELECT e.*, e.value / e."limit" AS part_of_limit
FROM evidence e JOIN newest n USING (run, "case", candidate)
WHERE e.higher_is_worse AND e.value IS NOT NULL AND e."limit" > 0
ORDER BY part_of_limit DESC;
