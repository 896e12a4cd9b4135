-- Fills the tables that come from layer_stats.parquet, for one run: `loaded_layer_stats` is a view over its files.
-- Lists become rows here: a vector of E values gives E rows, a matrix E * E. Floating-point sums over domains are
-- ordered, so that they come out the same every time.

INSERT INTO decisions
SELECT run, split, domain, layer, tokens, nonfinite, dropped
FROM loaded_layer_stats
ORDER BY split, domain, layer;

INSERT INTO repeats
SELECT run, split, domain, layer, pairs, first_repeats, any_repeats, slot_overlaps
FROM loaded_layer_stats
ORDER BY split, domain, layer;

INSERT INTO domain_counts
SELECT run, split, domain, layer, expert, chosen, first, weight_sum, tokens
FROM (
    SELECT run, split, domain, layer, tokens,
        unnest(range(len(chosen))) AS expert,
        unnest(chosen) AS chosen,
        unnest(first) AS first,
        unnest(weight_sum) AS weight_sum
    FROM loaded_layer_stats
)
ORDER BY split, domain, layer, expert;

INSERT INTO expert_load
SELECT run, split, layer, expert, sum(chosen), sum(first), sum(weight_sum ORDER BY domain), sum(tokens)
FROM (
    SELECT run, split, domain, layer, tokens,
        unnest(range(len(chosen))) AS expert,
        unnest(chosen) AS chosen,
        unnest(first) AS first,
        unnest(weight_sum) AS weight_sum
    FROM loaded_layer_stats
)
GROUP BY run, split, layer, expert
ORDER BY split, layer, expert;

INSERT INTO coactivation
SELECT run, split, layer, cell // experts AS expert, cell % experts AS other_expert, sum(count)
FROM (
    SELECT run, split, layer, len(chosen) AS experts,
        unnest(range(len(coactivation))) AS cell,
        unnest(coactivation) AS count
    FROM loaded_layer_stats
)
GROUP BY run, split, layer, experts, cell
ORDER BY split, layer, cell;

INSERT INTO crosslayer
SELECT run, split, layer, layer + 1 AS next_layer, cell // next_experts AS expert, cell % next_experts AS next_expert,
    sum(chosen), sum(first), sum(first_shuffled)
FROM (
    SELECT run, split, layer, len(next_chosen) // len(chosen) AS next_experts,
        unnest(range(len(next_chosen))) AS cell,
        unnest(next_chosen) AS chosen,
        unnest(next_first) AS first,
        unnest(next_first_shuffled) AS first_shuffled
    FROM loaded_layer_stats
    WHERE next_chosen IS NOT NULL
)
GROUP BY run, split, layer, next_experts, cell
ORDER BY split, layer, cell;
