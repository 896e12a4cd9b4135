-- Views of layers and experts: load, domains, pairs of experts, adjacent layers, consecutive tokens.

CREATE VIEW v_load AS
SELECT e.run, e.split, e.layer,
    any_value(e.tokens) AS tokens,
    any_value(l.experts) AS experts,
    max(e.chosen) / nullif(avg(e.chosen), 0) AS load_max_over_mean,
    stddev_pop(e.chosen) / nullif(avg(e.chosen), 0) AS load_cv,
    -- The logarithm of 0 is an error in some versions of DuckDB, that of null is null, which sums leave out.
    (ln(nullif(sum(e.chosen), 0)) - sum(e.chosen * ln(nullif(e.chosen, 0)) ORDER BY e.expert) / sum(e.chosen))
        / nullif(ln(any_value(l.experts)), 0) AS load_entropy_norm,
    list(e.expert ORDER BY e.chosen DESC, e.expert)[1] AS busiest_expert,
    count(*) FILTER (e.chosen = 0) AS never_chosen
FROM expert_load AS e
JOIN layers AS l USING (run, layer)
GROUP BY e.run, e.split, e.layer;

COMMENT ON VIEW v_load IS 'A row a (split, layer): how evenly the layer''s decisions spread over its experts, by times chosen.';
COMMENT ON COLUMN v_load.tokens IS 'Decisions of the layer.';
COMMENT ON COLUMN v_load.experts IS 'E, experts of the layer.';
COMMENT ON COLUMN v_load.load_max_over_mean IS 'Load of the busiest expert / mean load: 1 even, E all on one. With one expert a device, about the slow-down by waiting for the busiest.';
COMMENT ON COLUMN v_load.load_cv IS 'Coefficient of variation, standard deviation over all E experts / mean; even: 0.';
COMMENT ON COLUMN v_load.load_entropy_norm IS 'Entropy of the load shares / ln E; even: 1; null for a single expert.';
COMMENT ON COLUMN v_load.busiest_expert IS 'Expert with the largest load; ties go to the lower id.';
COMMENT ON COLUMN v_load.never_chosen IS 'Experts without a single decision.';

CREATE VIEW v_domain_specialization AS
SELECT d.run, d.split, d.domain, d.layer, d.expert, d.chosen, d.tokens,
    d.chosen / nullif(d.tokens, 0) AS domain_specialization,
    l.top_k / l.experts AS chance,
    e.chosen / nullif(e.tokens, 0) AS share_of_all,
    (d.chosen / nullif(d.tokens, 0)) / nullif(e.chosen / nullif(e.tokens, 0), 0) AS lift
FROM domain_counts AS d
JOIN expert_load AS e USING (run, split, layer, expert)
JOIN layers AS l USING (run, layer);

COMMENT ON VIEW v_domain_specialization IS 'A row a (split, domain, layer, expert): how much of a domain goes through an expert.';
COMMENT ON COLUMN v_domain_specialization.chosen IS 'Decisions of the domain that chose the expert.';
COMMENT ON COLUMN v_domain_specialization.tokens IS 'All decisions of the domain at the layer.';
COMMENT ON COLUMN v_domain_specialization.domain_specialization IS 'chosen / tokens, the share of the domain''s tokens that choose the expert.';
COMMENT ON COLUMN v_domain_specialization.chance IS 'k / E, the share when routing is even.';
COMMENT ON COLUMN v_domain_specialization.share_of_all IS 'The same share over all domains.';
COMMENT ON COLUMN v_domain_specialization.lift IS 'domain_specialization / share_of_all: above 1, the expert is used more in this domain than in general.';

CREATE VIEW v_coactivation AS
SELECT c.run, c.split, c.layer, c.expert, c.other_expert, c.count,
    c.count / nullif(i.chosen, 0) AS coactivation,
    c.count * (i.tokens / nullif(i.chosen::DOUBLE * j.chosen, 0)) AS lift
FROM coactivation AS c
JOIN expert_load AS i USING (run, split, layer, expert)
JOIN expert_load AS j
    ON j.run = c.run AND j.split = c.split AND j.layer = c.layer AND j.expert = c.other_expert
WHERE c.expert <> c.other_expert;

COMMENT ON VIEW v_coactivation IS 'A row an ordered pair of different experts i, j of a (split, layer): how much the choice of i goes with that of j.';
COMMENT ON COLUMN v_coactivation.other_expert IS 'Expert j.';
COMMENT ON COLUMN v_coactivation.expert IS 'Expert i.';
COMMENT ON COLUMN v_coactivation.count IS 'N_ij, decisions that chose both.';
COMMENT ON COLUMN v_coactivation.coactivation IS 'N_ij / N_i, share of the decisions with i that also chose j; null when i was never chosen.';
COMMENT ON COLUMN v_coactivation.lift IS 'N_ij N / (N_i N_j); independent choices: 1. As the k experts of a decision differ, a router that ignores its input has (k - 1) E / (k (E - 1)), somewhat below 1; with k = 1 it is 0.';

CREATE VIEW v_crosslayer AS
SELECT c.run, c.split, c.layer, c.next_layer, c.expert, c.next_expert, c.chosen,
    c.chosen / nullif(i.chosen, 0) AS next_share,
    j.chosen / nullif(j.tokens, 0) AS next_share_of_all,
    (c.chosen / nullif(i.chosen, 0)) / nullif(j.chosen / nullif(j.tokens, 0), 0) AS lift
FROM crosslayer AS c
JOIN expert_load AS i USING (run, split, layer, expert)
JOIN expert_load AS j
    ON j.run = c.run AND j.split = c.split AND j.layer = c.next_layer AND j.expert = c.next_expert;

COMMENT ON VIEW v_crosslayer IS 'A row a pair of experts of adjacent MoE layers: what the choice at one layer says about the next, as a prefetcher would use it.';
COMMENT ON COLUMN v_crosslayer.next_layer IS 'The MoE layer after it, layer + 1.';
COMMENT ON COLUMN v_crosslayer.expert IS 'Expert of layer.';
COMMENT ON COLUMN v_crosslayer.next_expert IS 'Expert of next_layer.';
COMMENT ON COLUMN v_crosslayer.chosen IS 'Tokens that chose both.';
COMMENT ON COLUMN v_crosslayer.next_share IS 'Share of the tokens that chose expert at layer which choose next_expert at next_layer.';
COMMENT ON COLUMN v_crosslayer.next_share_of_all IS 'Share of all tokens that choose next_expert at next_layer: what is known without looking.';
COMMENT ON COLUMN v_crosslayer.lift IS 'next_share / next_share_of_all; independent layers: 1.';

CREATE VIEW v_crosslayer_mi AS
WITH joint AS (
    SELECT run, split, layer, next_layer, expert, next_expert, false AS shuffled, first AS pairs FROM crosslayer
    UNION ALL
    SELECT run, split, layer, next_layer, expert, next_expert, true AS shuffled, first_shuffled AS pairs FROM crosslayer
),
margins AS (
    SELECT *,
        sum(pairs) OVER (PARTITION BY run, split, layer, next_layer, shuffled) AS total,
        sum(pairs) OVER (PARTITION BY run, split, layer, next_layer, shuffled, expert) AS here,
        sum(pairs) OVER (PARTITION BY run, split, layer, next_layer, shuffled, next_expert) AS there
    FROM joint
),
information AS (
    SELECT run, split, layer, next_layer, shuffled,
        any_value(total)::BIGINT AS tokens,
        -- A sum over nothing but pairs that never occur is 0; without pairs it is not known.
        if(
            any_value(total) IS NULL, NULL, coalesce(
                sum(
                    pairs / total * ln(nullif(pairs, 0)::DOUBLE * total / (here::DOUBLE * there))
                    ORDER BY expert, next_expert
                ), 0
            )
        ) AS mi
    FROM margins
    GROUP BY run, split, layer, next_layer, shuffled
)
SELECT run, split, layer, next_layer,
    any_value(tokens) FILTER (NOT shuffled) AS tokens,
    any_value(mi) FILTER (NOT shuffled) AS mi_observed,
    any_value(mi) FILTER (shuffled) AS mi_shuffled,
    mi_observed - mi_shuffled AS crosslayer_mi
FROM information
GROUP BY run, split, layer, next_layer;

COMMENT ON VIEW v_crosslayer_mi IS 'A row a pair of adjacent MoE layers of a split: mutual information of the first choices, sum p_ij ln(p_ij / (p_i p_j)), minus that of a within-sequence shuffle, which has the same bias and the same text.';
COMMENT ON COLUMN v_crosslayer_mi.next_layer IS 'The MoE layer after it, layer + 1.';
COMMENT ON COLUMN v_crosslayer_mi.tokens IS 'Tokens counted.';
COMMENT ON COLUMN v_crosslayer_mi.mi_observed IS 'Mutual information of the first choices of the same token, in nats; biased high.';
COMMENT ON COLUMN v_crosslayer_mi.mi_shuffled IS 'The same with the next layer shuffled within the sequence, in nats.';
COMMENT ON COLUMN v_crosslayer_mi.crosslayer_mi IS 'mi_observed - mi_shuffled, in nats; chance 0.';

CREATE VIEW v_repeats AS
WITH load AS (
    SELECT run, split, layer, any_value(top_k) AS top_k,
        sum((first / nullif(tokens, 0)) ** 2 ORDER BY expert) AS first_repeat_by_load,
        sum((chosen / nullif(tokens, 0)) ** 2 ORDER BY expert) / any_value(top_k) AS slot_overlap_by_load
    FROM expert_load
    JOIN layers USING (run, layer)
    GROUP BY run, split, layer
)
SELECT r.run, r.split, r.layer,
    sum(r.pairs)::BIGINT AS pairs,
    sum(r.first_repeats) / nullif(sum(r.pairs), 0) AS first_repeat,
    any_value(1 / l.experts) AS first_repeat_chance,
    any_value(d.first_repeat_by_load) AS first_repeat_by_load,
    sum(r.any_repeats) / nullif(sum(r.pairs), 0) AS any_repeat,
    any_value(
        1 - list_product(list_transform(range(l.top_k), lambda i: (l.experts - l.top_k - i) / (l.experts - i)))
    ) AS any_repeat_chance,
    sum(r.slot_overlaps) / nullif(sum(r.pairs) * any_value(l.top_k), 0) AS slot_overlap,
    any_value(l.top_k / l.experts) AS slot_overlap_chance,
    any_value(d.slot_overlap_by_load) AS slot_overlap_by_load
FROM repeats AS r
JOIN layers AS l USING (run, layer)
JOIN load AS d USING (run, split, layer)
GROUP BY r.run, r.split, r.layer;

COMMENT ON VIEW v_repeats IS 'A row a (split, layer), domains pooled: how often consecutive tokens of a document share experts, beside two chance levels: for even routing, and for independent choices with the layer''s own load.';
COMMENT ON COLUMN v_repeats.pairs IS 'Pairs of consecutive tokens.';
COMMENT ON COLUMN v_repeats.first_repeat IS 'Share of pairs with the same largest-weight expert.';
COMMENT ON COLUMN v_repeats.first_repeat_chance IS '1 / E.';
COMMENT ON COLUMN v_repeats.first_repeat_by_load IS 'sum_e (first_e / N)^2: independent choices with this load.';
COMMENT ON COLUMN v_repeats.any_repeat IS 'Share of pairs whose chosen sets meet.';
COMMENT ON COLUMN v_repeats.any_repeat_chance IS '1 - C(E - k, k) / C(E, k).';
COMMENT ON COLUMN v_repeats.slot_overlap IS 'Mean size of the intersection of the two chosen sets / k.';
COMMENT ON COLUMN v_repeats.slot_overlap_chance IS 'k / E.';
COMMENT ON COLUMN v_repeats.slot_overlap_by_load IS 'sum_e (chosen_e / N)^2 / k: independent choices with this load.';

CREATE VIEW v_segment_predictability AS
WITH pooled AS (
    -- One row a layer, and one over all layers, whose layer is null.
    SELECT run, split, domain, layer, window_length, uses, sum(cells) AS cells
    FROM segments
    GROUP BY GROUPING SETS (
        (run, split, domain, layer, window_length, uses), (run, split, domain, window_length, uses),
        (run, split, layer, window_length, uses), (run, split, window_length, uses)
    )
),
named AS (
    SELECT run, split, domain, layer, window_length, uses,
        sum(uses * cells) OVER at_least AS hits,
        window_length * sum(cells) OVER at_least AS named,
        sum(uses * cells) OVER (PARTITION BY run, split, domain, layer, window_length) AS choices
    FROM pooled
    WINDOW at_least AS (PARTITION BY run, split, domain, layer, window_length ORDER BY uses DESC)
)
SELECT run, split, domain, layer, window_length,
    any_value(choices)::BIGINT AS choices,
    arg_max(uses, 2 * hits / (named + choices)) AS threshold,
    max(2 * hits / (named + choices)) AS segment_predictability
FROM named
GROUP BY run, split, domain, layer, window_length;

COMMENT ON VIEW v_segment_predictability IS 'A row a (split, domain, layer, window), with domain null over all domains and layer null over all layers: how well one set of experts serves all tokens of a window (arXiv 2505.16056). Only splits that were traced.';
COMMENT ON COLUMN v_segment_predictability.domain IS 'Part of the corpus; null: all.';
COMMENT ON COLUMN v_segment_predictability.layer IS 'MoE layer; null: all.';
COMMENT ON COLUMN v_segment_predictability.window_length IS 'm, tokens of a window; every run of m consecutive tokens of a document is one.';
COMMENT ON COLUMN v_segment_predictability.choices IS 'Experts chosen by the tokens of all windows together.';
COMMENT ON COLUMN v_segment_predictability.threshold IS 'a: experts used at least so often in a window are named for it; the value with the best F1.';
COMMENT ON COLUMN v_segment_predictability.segment_predictability IS 'The best F1 of named and really chosen experts.';
