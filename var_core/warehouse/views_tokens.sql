-- Views of token types: moments and counts pooled over domains, and the measures of routing consistency.

CREATE VIEW v_token_stats AS
WITH pooled AS (
    -- Ordered sums, so that the last digit does not depend on the number of threads.
    SELECT run, split, layer, token_id,
        sum(n)::BIGINT AS n,
        sum(n * router_entropy_mean ORDER BY domain) / sum(n) AS mean_router_entropy,
        sum(n * confidence_mean ORDER BY domain) / sum(n) AS mean_confidence,
        sum(n * margin_mean ORDER BY domain) / sum(n) AS mean_margin
    FROM token_stats
    GROUP BY run, split, layer, token_id
),
merged AS (
    SELECT run, split, layer, token_id,
        any_value(p.n) AS n,
        any_value(mean_router_entropy) AS mean_router_entropy,
        sum(router_entropy_m2 + s.n * (router_entropy_mean - mean_router_entropy) ** 2 ORDER BY domain)
            AS router_entropy_m2,
        any_value(mean_confidence) AS mean_confidence,
        sum(confidence_m2 + s.n * (confidence_mean - mean_confidence) ** 2 ORDER BY domain) AS confidence_m2,
        any_value(mean_margin) AS mean_margin,
        sum(margin_m2 + s.n * (margin_mean - mean_margin) ** 2 ORDER BY domain) AS margin_m2
    FROM token_stats AS s
    JOIN pooled AS p USING (run, split, layer, token_id)
    GROUP BY run, split, layer, token_id
)
SELECT run, split, layer, token_id, token, special, n,
    mean_router_entropy, router_entropy_m2,
    router_entropy_m2 / nullif(n - 1, 0) AS router_entropy_variance,
    sqrt(router_entropy_m2 / nullif(n - 1, 0) / n) AS router_entropy_standard_error,
    mean_confidence, confidence_m2,
    confidence_m2 / nullif(n - 1, 0) AS confidence_variance,
    sqrt(confidence_m2 / nullif(n - 1, 0) / n) AS confidence_standard_error,
    mean_margin, margin_m2,
    margin_m2 / nullif(n - 1, 0) AS margin_variance,
    sqrt(margin_m2 / nullif(n - 1, 0) / n) AS margin_standard_error
FROM merged
JOIN tokens USING (run, token_id);

COMMENT ON VIEW v_token_stats IS 'A row a (split, layer, token id): token_stats with domains pooled by the formula of Chan, Golub and LeVeque 1979: n = sum n_d, mean = sum n_d mean_d / n, m2 = sum m2_d + sum n_d (mean_d - mean)^2.';
COMMENT ON COLUMN v_token_stats.n IS 'Occurrences in all domains.';
COMMENT ON COLUMN v_token_stats.mean_router_entropy IS 'Mean router entropy over occurrences, in nats; unbiased in n.';
COMMENT ON COLUMN v_token_stats.router_entropy_m2 IS 'Sum of squared deviations of the router entropy from its mean, in nats squared.';
COMMENT ON COLUMN v_token_stats.router_entropy_variance IS 'm2 / (n - 1), in nats squared; null for n = 1.';
COMMENT ON COLUMN v_token_stats.router_entropy_standard_error IS 'sqrt(variance / n), in nats: of the mean over independent occurrences; null for n = 1.';
COMMENT ON COLUMN v_token_stats.mean_confidence IS 'Mean of the largest router probability.';
COMMENT ON COLUMN v_token_stats.confidence_m2 IS 'Sum of squared deviations of the confidence from its mean.';
COMMENT ON COLUMN v_token_stats.confidence_variance IS 'm2 / (n - 1); null for n = 1.';
COMMENT ON COLUMN v_token_stats.confidence_standard_error IS 'sqrt(variance / n); null for n = 1.';
COMMENT ON COLUMN v_token_stats.mean_margin IS 'Mean of the probability of the k-th chosen expert minus that of the best not chosen.';
COMMENT ON COLUMN v_token_stats.margin_m2 IS 'Sum of squared deviations of the margin from its mean.';
COMMENT ON COLUMN v_token_stats.margin_variance IS 'm2 / (n - 1); null for n = 1.';
COMMENT ON COLUMN v_token_stats.margin_standard_error IS 'sqrt(variance / n); null for n = 1.';

CREATE VIEW v_expert_counts AS
SELECT run, split, layer, token_id, expert,
    sum(chosen)::BIGINT AS chosen,
    sum(first)::BIGINT AS first,
    sum(weight_sum) AS weight_sum
FROM expert_counts
GROUP BY run, split, layer, token_id, expert;

COMMENT ON VIEW v_expert_counts IS 'A row a (split, layer, token id, expert) with chosen > 0: expert_counts with domains pooled.';
COMMENT ON COLUMN v_expert_counts.chosen IS 'c_e: decisions in which the expert was among the k chosen.';
COMMENT ON COLUMN v_expert_counts.first IS 'f_e: decisions in which it had the largest weight.';
COMMENT ON COLUMN v_expert_counts.weight_sum IS 'Sum of the weights that it was given.';

CREATE VIEW v_token_routing AS
WITH counted AS (
    SELECT run, split, layer, token_id,
        any_value(experts) AS experts,
        any_value(top_k) AS top_k,
        (sum(chosen) // any_value(top_k))::BIGINT AS n,
        sum(chosen)::BIGINT AS slots,
        ln(sum(chosen)) - sum(chosen * ln(chosen) ORDER BY expert) / sum(chosen) AS selection_entropy,
        max(first) AS modal_first,
        max(chosen) AS modal_chosen,
        list_sort(list(chosen), 'DESC') AS descending,
        list(expert ORDER BY first DESC, expert) FILTER (first IS NOT NULL)[1] AS modal_expert,
        count(*) AS experts_used
    FROM v_expert_counts
    JOIN layers USING (run, layer)
    GROUP BY run, split, layer, token_id
)
SELECT run, split, layer, token_id, token, special, n, modal_expert, experts_used, selection_entropy,
    (selection_entropy - ln(top_k)) / nullif(ln(experts) - ln(top_k), 0) AS selection_entropy_norm,
    modal_first / n AS modal_share,
    modal_chosen / n AS modal_in_topk,
    list_sum(descending[1:top_k]) / slots AS set_recall
FROM counted
JOIN tokens USING (run, token_id);

COMMENT ON VIEW v_token_routing IS 'A row a (split, layer, token id), domains pooled: how consistently the token is routed. With c_e times chosen, f_e times first and n occurrences. All measures favour rare tokens: a token seen once has modal_share, modal_in_topk and set_recall 1; restrict n, and see v_token_recall for unseen text.';
COMMENT ON COLUMN v_token_routing.n IS 'Occurrences, sum_e c_e / k.';
COMMENT ON COLUMN v_token_routing.modal_expert IS 'Expert with the largest f_e; ties go to the lower id; null where weights were not recorded.';
COMMENT ON COLUMN v_token_routing.experts_used IS 'Experts with c_e > 0.';
COMMENT ON COLUMN v_token_routing.selection_entropy IS 'Plug-in entropy of c_e / (k n), in nats, ln k to ln E; biased low for small n.';
COMMENT ON COLUMN v_token_routing.selection_entropy_norm IS '(selection_entropy - ln k) / (ln E - ln k): 0 always the same k experts, 1 all alike; null when k = E.';
COMMENT ON COLUMN v_token_routing.modal_share IS 'max_e f_e / n; null where weights were not recorded.';
COMMENT ON COLUMN v_token_routing.modal_in_topk IS 'max_e c_e / n.';
COMMENT ON COLUMN v_token_routing.set_recall IS 'Share of the k n slots on the token''s own k most used experts; chance k / E.';

CREATE VIEW v_token_frequency AS
WITH counted AS (
    SELECT run, 'capture' AS split, token_id, token, capture_count AS n FROM tokens WHERE NOT special
    UNION ALL
    SELECT run, 'heldout' AS split, token_id, token, heldout_count AS n FROM tokens WHERE NOT special
)
SELECT run, split, token_id, token, n,
    row_number() OVER by_frequency AS rank,
    rank() OVER (PARTITION BY run, split ORDER BY n DESC)
        + (count(*) OVER (PARTITION BY run, split, n) - 1) / 2 AS average_rank,
    n / sum(n) OVER (PARTITION BY run, split) AS share,
    sum(n) OVER by_frequency / sum(n) OVER (PARTITION BY run, split) AS cumulative_share
FROM counted
WHERE n > 0
WINDOW by_frequency AS (PARTITION BY run, split ORDER BY n DESC, token_id ROWS UNBOUNDED PRECEDING);

COMMENT ON VIEW v_token_frequency IS 'A row a (split, token id) that occurs, special tokens left out: frequency ranks.';
COMMENT ON COLUMN v_token_frequency.n IS 'Occurrences in all domains.';
COMMENT ON COLUMN v_token_frequency.rank IS 'Rank by falling frequency, from 1; ties by lower token id, so no rank is there twice.';
COMMENT ON COLUMN v_token_frequency.average_rank IS 'Rank by falling frequency in which tied tokens share the mean of their ranks, as rank correlations need.';
COMMENT ON COLUMN v_token_frequency.share IS 'n / sum n.';
COMMENT ON COLUMN v_token_frequency.cumulative_share IS 'Share of all occurrences that are of this token or of one with a smaller rank.';

CREATE VIEW v_vocabulary_specialization AS
SELECT run, split, layer, types, vocabulary_specialization, load_limit
FROM (
    SELECT run, split, layer, count(*) AS types, avg(modal_in_topk ORDER BY token_id) AS vocabulary_specialization
    FROM v_token_routing
    WHERE n >= 10 AND NOT special
    GROUP BY run, split, layer
)
JOIN (
    SELECT run, split, layer, max(chosen / nullif(tokens, 0)) AS load_limit FROM expert_load GROUP BY run, split, layer
) USING (run, split, layer);

COMMENT ON VIEW v_vocabulary_specialization IS 'A row a (split, layer): how far experts specialize in tokens (OLMoE, arXiv 2409.02060), over token types with n >= 10.';
COMMENT ON COLUMN v_vocabulary_specialization.types IS 'Token types with n >= 10, special tokens left out.';
COMMENT ON COLUMN v_vocabulary_specialization.vocabulary_specialization IS 'Mean of modal_in_topk over these types.';
COMMENT ON COLUMN v_vocabulary_specialization.load_limit IS 'Share of tokens that choose the busiest expert: what frequent types would have if routing ignored the token (rare types would be above it).';

CREATE VIEW v_entropy_coverage AS
SELECT run, split, layer,
    count(*) AS types,
    -- Without router entropies nobody knows which are eligible: null, and not 0.
    if(count(mean_router_entropy) = 0, NULL, count(*) FILTER (n > 50 AND mean_router_entropy < 0.5)) AS eligible_types,
    sum(n)::BIGINT AS occurrences,
    if(
        count(mean_router_entropy) = 0, NULL, coalesce(sum(n) FILTER (n > 50 AND mean_router_entropy < 0.5), 0)
    )::BIGINT AS eligible_occurrences,
    eligible_occurrences / sum(n) AS coverage
FROM v_token_stats
WHERE NOT special
GROUP BY run, split, layer;

COMMENT ON VIEW v_entropy_coverage IS 'A row a (split, layer): hypothesis H4 as first stated. Eligible is a token type with n > 50 and mean_router_entropy < 0.5 nats; special tokens are left out.';
COMMENT ON COLUMN v_entropy_coverage.types IS 'Token types that occur.';
COMMENT ON COLUMN v_entropy_coverage.eligible_types IS 'Eligible token types; null where router logits were not recorded.';
COMMENT ON COLUMN v_entropy_coverage.occurrences IS 'Occurrences of all these types.';
COMMENT ON COLUMN v_entropy_coverage.eligible_occurrences IS 'Occurrences of the eligible types.';
COMMENT ON COLUMN v_entropy_coverage.coverage IS 'eligible_occurrences / occurrences; H4 asks for more than 0.4.';
