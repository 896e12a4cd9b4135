-- Views of what predictable routing is worth: caches by size, conditions that were met or not, ceilings, and what was timed.

CREATE VIEW v_cache_curve AS
WITH caches AS (
    -- Hits and loads are the same on every device.
    SELECT * FROM cache_simulations
    QUALIFY row_number() OVER (
        PARTITION BY run, phase, batch, start, sharing, capacity_share, policy ORDER BY device
    ) = 1
),
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY run, phase, batch, start, sharing, capacity_share ORDER BY hit_rate DESC, loads_an_access, policy
    ) AS place
    FROM caches
    WHERE policy IN ('previous_token', 'next_layer', 'token_table', 'context_cache')
)
SELECT c.run, c.phase, c.batch, c.recorded, c.start, c.sharing, c.capacity_share,
    any_value(c.experts_a_layer) AS experts_a_layer,
    any_value(c.capacity_bytes) AS capacity_bytes,
    max(c.hit_rate) FILTER (c.policy = 'lru') AS lru_hit_rate,
    max(c.hit_rate_low) FILTER (c.policy = 'lru') AS lru_hit_rate_low,
    max(c.hit_rate_high) FILTER (c.policy = 'lru') AS lru_hit_rate_high,
    max(c.loads_an_access) FILTER (c.policy = 'lru') AS lru_loads_an_access,
    max(c.hit_rate) FILTER (c.policy = 'belady') AS belady_hit_rate,
    max(c.loads_an_access) FILTER (c.policy = 'belady') AS belady_loads_an_access,
    max(c.hit_rate) FILTER (c.policy = 'random') AS random_hit_rate,
    any_value(best.policy) AS predictor,
    any_value(best.recall) AS recall,
    any_value(best.hit_rate) AS predictor_hit_rate,
    any_value(best.hit_rate_low) AS predictor_hit_rate_low,
    any_value(best.hit_rate_high) AS predictor_hit_rate_high,
    any_value(best.loads_an_access) AS predictor_loads_an_access
FROM caches AS c
LEFT JOIN ranked AS best
    ON best.run = c.run AND best.phase = c.phase AND best.batch = c.batch AND best.start = c.start
    AND best.sharing = c.sharing AND best.capacity_share = c.capacity_share AND best.place = 1
GROUP BY c.run, c.phase, c.batch, c.recorded, c.start, c.sharing, c.capacity_share;

COMMENT ON VIEW v_cache_curve IS 'A row a cache of experts: how often LRU alone, Belady''s optimum, and LRU with what the best predictor (by hit rate) prefetches have the needed experts in it, and how much each loads for that. A prefetch raises hits without moving less: compare the loads, too.';
COMMENT ON COLUMN v_cache_curve.phase IS 'decode or prefill.';
COMMENT ON COLUMN v_cache_curve.batch IS 'Sequences that are decoded together.';
COMMENT ON COLUMN v_cache_curve.recorded IS 'Whether the passes are those of the recording.';
COMMENT ON COLUMN v_cache_curve.start IS 'warm: the cache is empty at the very beginning only; cold: whenever a sequence begins.';
COMMENT ON COLUMN v_cache_curve.sharing IS 'shared: one cache for all layers; per_layer: one for each.';
COMMENT ON COLUMN v_cache_curve.capacity_share IS 'Share of all experts that the cache holds.';
COMMENT ON COLUMN v_cache_curve.experts_a_layer IS 'Experts that it holds, by layer in the mean.';
COMMENT ON COLUMN v_cache_curve.capacity_bytes IS 'Bytes that it holds; null where the size of an expert is not known.';
COMMENT ON COLUMN v_cache_curve.lru_hit_rate IS 'Share of the needed experts that LRU alone has; null where a policy was not replayed, as in the columns below.';
COMMENT ON COLUMN v_cache_curve.lru_hit_rate_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_cache_curve.lru_hit_rate_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_cache_curve.lru_loads_an_access IS 'What it loads, per needed expert.';
COMMENT ON COLUMN v_cache_curve.belady_hit_rate IS 'The same share of Belady''s optimum, which knows the future and prefetches nothing.';
COMMENT ON COLUMN v_cache_curve.belady_loads_an_access IS 'What it loads: no policy loads less, if all experts have one size.';
COMMENT ON COLUMN v_cache_curve.random_hit_rate IS 'The same share with as many experts prefetched at random: the control.';
COMMENT ON COLUMN v_cache_curve.predictor IS 'The best predictor: previous_token, next_layer, token_table or context_cache.';
COMMENT ON COLUMN v_cache_curve.recall IS 'Share of the needed experts that it predicts.';
COMMENT ON COLUMN v_cache_curve.predictor_hit_rate IS 'Share of the needed experts that are there with its prefetches.';
COMMENT ON COLUMN v_cache_curve.predictor_hit_rate_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_cache_curve.predictor_hit_rate_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_cache_curve.predictor_loads_an_access IS 'What is loaded with them.';

CREATE VIEW v_break_even AS
WITH own AS (
    SELECT * FROM break_even
    WHERE "case" = 'offloaded' AND source = 'replayed'
        AND policy IN ('previous_token', 'next_layer', 'token_table', 'context_cache')
    QUALIFY row_number() OVER (
        PARTITION BY run, device, batch, capacity_share ORDER BY speed_up DESC, policy
    ) = 1
),
in_memory AS (
    -- What was measured goes before what is modelled.
    SELECT run, device, batch, source, ceiling, verdict, coalesce(speed_up, speed_up_modelled) AS speed_up
    FROM break_even
    WHERE "case" = 'resident' AND source <> 'assumed'
    QUALIFY row_number() OVER (PARTITION BY run, device, batch ORDER BY source) = 1
),
really AS (
    SELECT run, device, batch, policy, capacity_share, speed_up, speed_up_low, speed_up_high
    FROM break_even WHERE "case" = 'offloaded' AND source = 'run'
)
SELECT o.run, o.device, o.batch, o.capacity_share, o.hit_rate, o.policy, o.recall, o.break_even_recall,
    coalesce(o.recall > o.break_even_recall, FALSE) AS recall_suffices,
    o.window_seconds, o.stall_seconds, o.deciding_seconds,
    o.speed_up_modelled, o.speed_up_free, o.speed_up, o.speed_up_low, o.speed_up_high, o.verdict,
    r.speed_up AS run_speed_up, r.speed_up_low AS run_speed_up_low, r.speed_up_high AS run_speed_up_high,
    m.source AS resident_source, m.ceiling AS resident_ceiling, m.speed_up AS resident_speed_up,
    m.verdict AS resident_verdict
FROM own AS o
LEFT JOIN in_memory AS m USING (run, device, batch)
LEFT JOIN really AS r USING (run, device, batch, policy, capacity_share);

COMMENT ON VIEW v_break_even IS 'A row a (device, batch, size of cache) of a run''s own routing: the predictor whose prefetches make decoding fastest, the recall that it would take and that it has, what comes of it, and the case of all experts in memory beside it.';
COMMENT ON COLUMN v_break_even.device IS 'As in costs.';
COMMENT ON COLUMN v_break_even.batch IS 'Sequences that are decoded together.';
COMMENT ON COLUMN v_break_even.capacity_share IS 'Share of all experts that the cache holds.';
COMMENT ON COLUMN v_break_even.hit_rate IS 'Hit rate of LRU alone.';
COMMENT ON COLUMN v_break_even.policy IS 'The fastest predictor: previous_token, next_layer, token_table or context_cache.';
COMMENT ON COLUMN v_break_even.recall IS 'Share of the needed experts that it predicts.';
COMMENT ON COLUMN v_break_even.break_even_recall IS 'Recall above which prefetching saves time by the closed form; null where none does, where nothing is loaded, and of who predicts far fewer experts than are needed.';
COMMENT ON COLUMN v_break_even.recall_suffices IS 'recall > break_even_recall; false where there is no such recall.';
COMMENT ON COLUMN v_break_even.window_seconds IS 'W: time of a layer in which loads for the next one travel unnoticed.';
COMMENT ON COLUMN v_break_even.stall_seconds IS 'S: time to load what a layer needs and the cache does not hold.';
COMMENT ON COLUMN v_break_even.deciding_seconds IS 'd: time that predicting takes, by layer.';
COMMENT ON COLUMN v_break_even.speed_up_modelled IS 'How many times as fast as LRU alone, by the closed form.';
COMMENT ON COLUMN v_break_even.speed_up_free IS 'The same by the replay, if predicting took no time.';
COMMENT ON COLUMN v_break_even.speed_up IS 'The same by the replay, with the time that predicting takes.';
COMMENT ON COLUMN v_break_even.speed_up_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_break_even.speed_up_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_break_even.verdict IS 'pays, about even, does not pay, or not sure.';
COMMENT ON COLUMN v_break_even.run_speed_up IS 'The same, as the model was really run with offloaded experts; null where it was not: with this device, predictor and size of cache.';
COMMENT ON COLUMN v_break_even.run_speed_up_low IS 'Lower end: the slowest round against the fastest of LRU alone.';
COMMENT ON COLUMN v_break_even.run_speed_up_high IS 'Upper end: the other way round.';
COMMENT ON COLUMN v_break_even.resident_source IS 'Where the next three are from: profiled (measured) or replayed (modelled); null for a run without a policy, as in these.';
COMMENT ON COLUMN v_break_even.resident_ceiling IS 'With all experts in memory: how many times as fast if a policy that takes no time made all decisions.';
COMMENT ON COLUMN v_break_even.resident_speed_up IS 'How many times as fast the run''s policy is then.';
COMMENT ON COLUMN v_break_even.resident_verdict IS 'pays, about even, does not pay, or not sure.';

CREATE VIEW v_cost_ceilings AS
SELECT run, model, device, phase, batch, context,
    any_value(fits) AS fits,
    sum(seconds) FILTER (part <> 'gate+top_k') AS seconds,
    max(share) FILTER (part = 'attention') AS attention_share,
    max(share) FILTER (part = 'experts') AS experts_share,
    max(share) FILTER (part = 'gate+top_k') AS gate_and_top_k_share,
    max(ceiling) FILTER (part = 'gate') AS gate_ceiling,
    max(ceiling) FILTER (part = 'gate+top_k') AS gate_and_top_k_ceiling,
    max(flops_ceiling) FILTER (part = 'gate+top_k') AS gate_and_top_k_flops_ceiling
FROM costs
GROUP BY run, model, device, phase, batch, context;

COMMENT ON VIEW v_cost_ceilings IS 'A row a (model, device, phase, batch, context): what a pass with all experts in memory costs by the cost model, and how much faster it could be at the very most without its gate.';
COMMENT ON COLUMN v_cost_ceilings.model IS 'The run''s model, or a known architecture.';
COMMENT ON COLUMN v_cost_ceilings.device IS 'As in costs.';
COMMENT ON COLUMN v_cost_ceilings.phase IS 'prefill or decode.';
COMMENT ON COLUMN v_cost_ceilings.batch IS 'Sequences at once.';
COMMENT ON COLUMN v_cost_ceilings.context IS 'Tokens of each.';
COMMENT ON COLUMN v_cost_ceilings.fits IS 'Whether model and sequences go into the device''s memory.';
COMMENT ON COLUMN v_cost_ceilings.seconds IS 'Of the whole pass.';
COMMENT ON COLUMN v_cost_ceilings.attention_share IS 'Share of them that attention takes.';
COMMENT ON COLUMN v_cost_ceilings.experts_share IS 'Share that the experts take.';
COMMENT ON COLUMN v_cost_ceilings.gate_and_top_k_share IS 'Share that gate and top-k take.';
COMMENT ON COLUMN v_cost_ceilings.gate_ceiling IS 'How many times as fast the pass would be if the gate took no time.';
COMMENT ON COLUMN v_cost_ceilings.gate_and_top_k_ceiling IS 'The same of gate and top-k.';
COMMENT ON COLUMN v_cost_ceilings.gate_and_top_k_flops_ceiling IS 'The same, counted in operations.';

CREATE VIEW v_policy_speed AS
SELECT run, phase, batch, context,
    max(seconds) FILTER (arm = 'plain') AS plain_seconds,
    max(seconds) FILTER (arm = 'policy') AS policy_seconds,
    max(seconds) FILTER (arm = 'policy_audited') AS audited_seconds,
    plain_seconds / policy_seconds AS policy_speed_up,
    max(low) FILTER (arm = 'plain') / max(high) FILTER (arm = 'policy') AS policy_speed_up_low,
    max(high) FILTER (arm = 'plain') / max(low) FILTER (arm = 'policy') AS policy_speed_up_high,
    plain_seconds / audited_seconds AS audited_speed_up,
    any_value(rounds) AS rounds
FROM profiles
WHERE instrument = 'none' AND part = 'whole'
GROUP BY run, phase, batch, context;

COMMENT ON VIEW v_policy_speed IS 'A row a (phase, batch, context) of a profile: how fast a pass with all experts in memory is under the policy, as nobody watches it. No rows for a run whose model was not run.';
COMMENT ON COLUMN v_policy_speed.phase IS 'prefill or decode.';
COMMENT ON COLUMN v_policy_speed.batch IS 'Sequences at once.';
COMMENT ON COLUMN v_policy_speed.context IS 'Tokens that are prefilled.';
COMMENT ON COLUMN v_policy_speed.plain_seconds IS 'Median seconds of a pass of the model as it is.';
COMMENT ON COLUMN v_policy_speed.policy_seconds IS 'The same under the policy.';
COMMENT ON COLUMN v_policy_speed.audited_seconds IS 'The same under the policy with the audit.';
COMMENT ON COLUMN v_policy_speed.policy_speed_up IS 'plain_seconds / policy_seconds: above 1, the policy is faster.';
COMMENT ON COLUMN v_policy_speed.policy_speed_up_low IS 'From the worse ends of both medians'' intervals; null with too few rounds.';
COMMENT ON COLUMN v_policy_speed.policy_speed_up_high IS 'From their better ends.';
COMMENT ON COLUMN v_policy_speed.audited_speed_up IS 'plain_seconds / audited_seconds.';
COMMENT ON COLUMN v_policy_speed.rounds IS 'Rounds that were measured.';
