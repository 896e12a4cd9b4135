-- Views of prediction: tables fitted on the capture split and scored on the held-out split. Special tokens are left
-- out of fit and score: they would be predicted without effort.

CREATE VIEW v_token_table AS
SELECT run, split, layer, token_id, token,
    (sum(chosen) // any_value(top_k))::BIGINT AS n,
    list(expert ORDER BY chosen DESC, expert)[1:any_value(top_k)] AS experts,
    list(expert ORDER BY first DESC, expert) FILTER (first IS NOT NULL)[1] AS first_expert
FROM (
    SELECT c.run, c.split, c.layer, c.token_id, t.token, c.expert, c.chosen, c.first, l.top_k
    FROM v_expert_counts AS c
    JOIN layers AS l USING (run, layer)
    JOIN tokens AS t USING (run, token_id)
    WHERE NOT t.special
)
GROUP BY run, split, layer, token_id, token;

COMMENT ON VIEW v_token_table IS 'A row a (split, layer, token id): the token''s own k most used experts in that split, which is what a table from token to experts predicts.';
COMMENT ON COLUMN v_token_table.n IS 'Occurrences that the entry was fitted on.';
COMMENT ON COLUMN v_token_table.experts IS 'The k experts with the largest c_e, most used first; ties go to the lower id.';
COMMENT ON COLUMN v_token_table.first_expert IS 'Expert with the largest f_e: the predicted first choice; ties go to the lower id; null where weights were not recorded.';

CREATE VIEW v_global_table AS
SELECT run, split, layer,
    (sum(chosen) // any_value(top_k))::BIGINT AS n,
    list(expert ORDER BY chosen DESC, expert)[1:any_value(top_k)] AS experts,
    list(expert ORDER BY first DESC, expert) FILTER (first IS NOT NULL)[1] AS first_expert
FROM (
    SELECT c.run, c.split, c.layer, c.expert, any_value(l.top_k) AS top_k, sum(c.chosen) AS chosen,
        sum(c.first) AS first
    FROM expert_counts AS c
    JOIN layers AS l USING (run, layer)
    JOIN tokens AS t USING (run, token_id)
    WHERE NOT t.special
    GROUP BY c.run, c.split, c.layer, c.expert
)
GROUP BY run, split, layer;

COMMENT ON VIEW v_global_table IS 'A row a (split, layer): the k experts that are most used over all tokens, the same prediction for every token. What a token table must beat.';
COMMENT ON COLUMN v_global_table.n IS 'Decisions that it was fitted on.';
COMMENT ON COLUMN v_global_table.experts IS 'The k experts with the largest load, most used first; ties go to the lower id.';
COMMENT ON COLUMN v_global_table.first_expert IS 'The most frequent first choice; ties go to the lower id; null where weights were not recorded.';

CREATE VIEW v_token_recall AS
WITH scored AS (
    SELECT c.run, c.split, c.layer, c.token_id, t.token, c.expert, c.chosen, c.first,
        f.n AS fitted_n,
        coalesce(list_contains(f.experts, c.expert), false) AS in_table,
        coalesce(f.first_expert = c.expert, false) AS first_in_table,
        list_contains(g.experts, c.expert) AS in_global_table,
        g.first_expert = c.expert AS first_in_global_table,
        l.top_k
    FROM v_expert_counts AS c
    JOIN layers AS l USING (run, layer)
    JOIN tokens AS t USING (run, token_id)
    JOIN (SELECT * FROM v_global_table WHERE split = 'capture') AS g USING (run, layer)
    LEFT JOIN (SELECT * FROM v_token_table WHERE split = 'capture') AS f USING (run, layer, token_id)
    WHERE NOT t.special
)
SELECT run, split, layer, token_id, token,
    coalesce(any_value(fitted_n), 0) AS fitted_n,
    (sum(chosen) // any_value(top_k))::BIGINT AS n,
    sum(chosen)::BIGINT AS slots,
    coalesce(sum(chosen) FILTER (in_table), 0)::BIGINT AS table_slots,
    coalesce(sum(chosen) FILTER (in_global_table), 0)::BIGINT AS global_slots,
    -- Nobody knows first choices without weights: null, and not 0.
    sum(if(first_in_table, first, first * 0))::BIGINT AS table_firsts,
    sum(if(first_in_global_table, first, first * 0))::BIGINT AS global_firsts,
    table_slots / slots AS table_recall_at_k,
    table_firsts / n AS table_top1_agreement
FROM scored
GROUP BY run, split, layer, token_id, token;

COMMENT ON VIEW v_token_recall IS 'A row a (split, layer, token id): how well tables fitted on the capture split predict this split. Read split = heldout: on capture they are scored on what they were fitted on. From table_slots and global_slots the recall of a table with any minimum count follows, as in v_table_recall.';
COMMENT ON COLUMN v_token_recall.fitted_n IS 'Occurrences in the capture split that the token''s table entry was fitted on; 0 for a token that it does not know.';
COMMENT ON COLUMN v_token_recall.n IS 'Occurrences that are scored.';
COMMENT ON COLUMN v_token_recall.slots IS 'k n, the experts that were really chosen.';
COMMENT ON COLUMN v_token_recall.table_slots IS 'Of these, chosen experts that the token''s own entry names; 0 for a token that the table does not know.';
COMMENT ON COLUMN v_token_recall.global_slots IS 'Of these, chosen experts that the global table names.';
COMMENT ON COLUMN v_token_recall.table_firsts IS 'Decisions whose first choice is the one that the token''s own entry names; null where weights were not recorded.';
COMMENT ON COLUMN v_token_recall.global_firsts IS 'Decisions whose first choice is the one that the global table names; null where weights were not recorded.';
COMMENT ON COLUMN v_token_recall.table_recall_at_k IS 'table_slots / slots; chance k / E.';
COMMENT ON COLUMN v_token_recall.table_top1_agreement IS 'table_firsts / n; chance 1 / E.';

CREATE VIEW v_table_recall AS
SELECT r.run, r.split, r.layer,
    sum(n)::BIGINT AS tokens,
    coalesce(sum(n) FILTER (fitted_n >= 10), 0) / sum(n) AS own_entry_share,
    sum(if(fitted_n >= 10, table_slots, global_slots)) / sum(slots) AS token_table_recall_at_k,
    sum(global_slots) / sum(slots) AS global_table_recall_at_k,
    any_value(l.top_k / l.experts) AS chance_recall_at_k,
    sum(if(fitted_n >= 10, table_firsts, global_firsts)) / sum(n) AS token_table_top1_agreement,
    sum(global_firsts) / sum(n) AS global_table_top1_agreement,
    any_value(1 / l.experts) AS chance_top1_agreement
FROM v_token_recall AS r
JOIN layers AS l USING (run, layer)
GROUP BY r.run, r.split, r.layer;

COMMENT ON VIEW v_table_recall IS 'A row a (split, layer): share of routing decisions that a static table fitted on the capture split predicts. Token table: the token''s own k most used experts where it was fitted on at least 10 occurrences, else the global table. Read split = heldout; capture shows how optimistic a score on the fitted text is.';
COMMENT ON COLUMN v_table_recall.tokens IS 'Decisions scored.';
COMMENT ON COLUMN v_table_recall.own_entry_share IS 'Share of decisions of tokens with an entry of their own.';
COMMENT ON COLUMN v_table_recall.token_table_recall_at_k IS 'Share of the true slots that are in the token table''s predicted set.';
COMMENT ON COLUMN v_table_recall.global_table_recall_at_k IS 'Share of the true slots that are in the global table''s predicted set.';
COMMENT ON COLUMN v_table_recall.chance_recall_at_k IS 'k / E.';
COMMENT ON COLUMN v_table_recall.token_table_top1_agreement IS 'Share of decisions whose largest-weight expert the token table names.';
COMMENT ON COLUMN v_table_recall.global_table_top1_agreement IS 'Share of decisions whose largest-weight expert the global table names.';
COMMENT ON COLUMN v_table_recall.chance_top1_agreement IS '1 / E.';

CREATE VIEW v_domain_recall AS
WITH counted AS (
    -- Prefill and decode of a domain are of the same requests: leaving out one of them would leave nothing unseen.
    SELECT run, split, regexp_replace(domain, ':(prefill|decode|mixed)$', '') AS domain, layer, token_id, expert,
        sum(chosen) AS chosen
    FROM expert_counts JOIN tokens USING (run, token_id)
    WHERE NOT special
    GROUP BY ALL
),
loads AS (
    SELECT run, split, domain, layer, expert, sum(chosen) AS chosen FROM counted GROUP BY ALL
),
global_places AS (
    SELECT run, split, d.domain, layer, expert, sum(chosen) FILTER (a.domain <> d.domain) AS fitted,
        row_number() OVER (PARTITION BY run, split, d.domain, layer ORDER BY fitted DESC NULLS LAST, expert) AS global_place
    FROM loads AS a
    JOIN (SELECT DISTINCT run, split, domain FROM loads) AS d USING (run, split)
    GROUP BY run, split, d.domain, layer, expert
),
everywhere AS (
    SELECT run, split, layer, token_id, expert, sum(chosen) AS chosen FROM counted GROUP BY ALL
),
fitted AS (
    -- For the token ids of each domain: how often all other domains chose each expert, beside the domain itself.
    SELECT run, split, d.domain, layer, token_id, expert,
        e.chosen - coalesce(c.chosen, 0) AS fitted, coalesce(c.chosen, 0) AS chosen
    FROM everywhere AS e
    JOIN (SELECT DISTINCT run, split, domain, layer, token_id FROM counted) AS d USING (run, split, layer, token_id)
    LEFT JOIN counted AS c USING (run, split, domain, layer, token_id, expert)
),
places AS (
    SELECT *,
        row_number() OVER (token ORDER BY fitted DESC, expert) AS place,
        sum(fitted) OVER (token) AS fitted_slots
    FROM fitted
    WINDOW token AS (PARTITION BY run, split, domain, layer, token_id)
)
SELECT p.run, p.split, p.domain, p.layer,
    (sum(p.chosen) // any_value(l.top_k))::BIGINT AS tokens,
    coalesce(
        sum(p.chosen) FILTER (
            if(fitted_slots >= 10 * l.top_k, p.fitted > 0 AND place <= l.top_k, global_place <= l.top_k)
        ), 0
    ) / sum(p.chosen) AS token_table_recall_at_k,
    coalesce(sum(p.chosen) FILTER (global_place <= l.top_k), 0) / sum(p.chosen) AS global_table_recall_at_k,
    any_value(l.top_k / l.experts) AS chance_recall_at_k
FROM places AS p
JOIN global_places AS g USING (run, split, domain, layer, expert)
JOIN layers AS l USING (run, layer)
GROUP BY p.run, p.split, p.domain, p.layer
HAVING any_value(g.fitted) IS NOT NULL;

COMMENT ON VIEW v_domain_recall IS 'A row a (split, domain, layer): share of a domain''s routing decisions that a static table fitted on all other domains of the same split predicts. Prefill and decode of a domain are one here. Tables are those of v_table_recall. What stands in for unseen text where nothing was held out; no rows for a single domain.';
COMMENT ON COLUMN v_domain_recall.domain IS 'The domain, without its phase, that is left out of the fit, and scored.';
COMMENT ON COLUMN v_domain_recall.tokens IS 'Decisions scored.';
COMMENT ON COLUMN v_domain_recall.token_table_recall_at_k IS 'Share of the true slots that are in the token table''s predicted set.';
COMMENT ON COLUMN v_domain_recall.global_table_recall_at_k IS 'Share of the true slots that are in the global table''s predicted set.';
COMMENT ON COLUMN v_domain_recall.chance_recall_at_k IS 'k / E.';
