-- Views of policies: what an arm of an evaluation covers and costs, and the ways of its decisions, in a row each.

CREATE VIEW v_quality_coverage AS
SELECT run, arm,
    max(value) FILTER (measure = 'coverage') AS coverage,
    max(low) FILTER (measure = 'coverage') AS coverage_low,
    max(high) FILTER (measure = 'coverage') AS coverage_high,
    max(value) FILTER (measure = 'loss') AS loss,
    max(value) FILTER (measure = 'loss_difference') AS loss_difference,
    max(low) FILTER (measure = 'loss_difference') AS loss_difference_low,
    max(high) FILTER (measure = 'loss_difference') AS loss_difference_high,
    max(value) FILTER (measure = 'relative_loss') AS relative_loss,
    max(low) FILTER (measure = 'relative_loss') AS relative_loss_low,
    max(high) FILTER (measure = 'relative_loss') AS relative_loss_high,
    max(value) FILTER (measure = 'set_agreement') AS set_agreement,
    max(low) FILTER (measure = 'set_agreement') AS set_agreement_low,
    max(high) FILTER (measure = 'set_agreement') AS set_agreement_high,
    max(value) FILTER (measure = 'p_within_margin') AS p_within_margin,
    max(value) FILTER (measure = 'p_beyond_margin') AS p_beyond_margin
FROM evaluations
WHERE layer IS NULL
GROUP BY run, arm;

COMMENT ON VIEW v_quality_coverage IS 'A row an arm of an evaluation, all layers together: how many decisions it takes from the router, and what that costs on held-out text.';
COMMENT ON COLUMN v_quality_coverage.arm IS 'What the model ran under, see evaluations.';
COMMENT ON COLUMN v_quality_coverage.coverage IS 'Share of the decisions that are fast or cached; null for the arms without ways (plain, oracle).';
COMMENT ON COLUMN v_quality_coverage.coverage_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_quality_coverage.coverage_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_quality_coverage.loss IS 'Mean -ln p of the predicted tokens, in nats a token.';
COMMENT ON COLUMN v_quality_coverage.loss_difference IS 'loss minus the plain model''s on the same sequences, in nats a token; null for the plain model, as the columns below.';
COMMENT ON COLUMN v_quality_coverage.loss_difference_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_quality_coverage.loss_difference_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_quality_coverage.relative_loss IS 'loss_difference / loss of the plain model.';
COMMENT ON COLUMN v_quality_coverage.relative_loss_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_quality_coverage.relative_loss_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_quality_coverage.set_agreement IS 'Share of the fast and cached decisions whose whole set of experts is the router''s; null where there are none.';
COMMENT ON COLUMN v_quality_coverage.set_agreement_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_quality_coverage.set_agreement_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_quality_coverage.p_within_margin IS 'p-value of the test that the loss exceeds the plain model''s by less than the configured margin.';
COMMENT ON COLUMN v_quality_coverage.p_beyond_margin IS 'p-value of the test that it exceeds it by more.';

CREATE VIEW v_ways_by_layer AS
SELECT run, arm, layer,
    max(n) FILTER (measure = 'coverage') AS decisions,
    max(value) FILTER (measure = 'fast_share') AS fast_share,
    max(value) FILTER (measure = 'cache_share') AS cache_share,
    max(value) FILTER (measure = 'learned_share') AS learned_share,
    max(value) FILTER (measure = 'coverage') AS coverage,
    max(value) FILTER (measure = 'set_agreement_fast') AS set_agreement_fast,
    max(value) FILTER (measure = 'set_agreement_cached') AS set_agreement_cached,
    max(value) FILTER (measure = 'set_agreement') AS set_agreement,
    max(low) FILTER (measure = 'set_agreement') AS set_agreement_low,
    max(high) FILTER (measure = 'set_agreement') AS set_agreement_high,
    max(value) FILTER (measure = 'recall_at_k_fast') AS recall_at_k_fast,
    max(value) FILTER (measure = 'recall_at_k_cached') AS recall_at_k_cached,
    max(value) FILTER (measure = 'recall_at_k') AS recall_at_k
FROM evaluations
GROUP BY run, arm, layer
HAVING count(*) FILTER (measure = 'coverage') > 0;

COMMENT ON VIEW v_ways_by_layer IS 'A row a (arm, layer) of an evaluation, for arms with ways: by which way decisions were made, and how those of each agree with what the router would have said.';
COMMENT ON COLUMN v_ways_by_layer.arm IS 'What the model ran under, see evaluations.';
COMMENT ON COLUMN v_ways_by_layer.layer IS 'MoE layer, from 0; null: all layers together.';
COMMENT ON COLUMN v_ways_by_layer.decisions IS 'Decisions of all ways.';
COMMENT ON COLUMN v_ways_by_layer.fast_share IS 'Share of them made from a table.';
COMMENT ON COLUMN v_ways_by_layer.cache_share IS 'Share made as before in the same context.';
COMMENT ON COLUMN v_ways_by_layer.learned_share IS 'Share made by the model''s own router; the three sum to 1.';
COMMENT ON COLUMN v_ways_by_layer.coverage IS 'fast_share + cache_share.';
COMMENT ON COLUMN v_ways_by_layer.set_agreement_fast IS 'Share of the fast decisions whose whole set of experts is the router''s; null where there are none, as in the columns below.';
COMMENT ON COLUMN v_ways_by_layer.set_agreement_cached IS 'The same of the cached decisions.';
COMMENT ON COLUMN v_ways_by_layer.set_agreement IS 'The same of both together.';
COMMENT ON COLUMN v_ways_by_layer.set_agreement_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_ways_by_layer.set_agreement_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_ways_by_layer.recall_at_k_fast IS 'Mean share of the router''s k experts that are among those of the fast decision.';
COMMENT ON COLUMN v_ways_by_layer.recall_at_k_cached IS 'The same of the cached decisions.';
COMMENT ON COLUMN v_ways_by_layer.recall_at_k IS 'The same of both together.';
