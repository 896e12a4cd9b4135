-- Views of the search for a policy's settings: measured points in a row each, and what the search promised of its choice.

CREATE VIEW v_tuning_front AS
SELECT run, point,
    any_value(trial) AS trial,
    any_value(chosen) AS chosen,
    max(estimated) FILTER (measure = 'learned_share') AS learned_share_estimated,
    max(measured) FILTER (measure = 'learned_share') AS learned_share,
    max(low) FILTER (measure = 'learned_share') AS learned_share_low,
    max(high) FILTER (measure = 'learned_share') AS learned_share_high,
    max(estimated) FILTER (measure = 'loss_difference') AS loss_difference_estimated,
    max(measured) FILTER (measure = 'loss_difference') AS loss_difference,
    max(low) FILTER (measure = 'loss_difference') AS loss_difference_low,
    max(high) FILTER (measure = 'loss_difference') AS loss_difference_high,
    max(measured) FILTER (measure = 'relative_loss') AS relative_loss,
    max(measured) FILTER (measure = 'set_agreement') AS set_agreement,
    any_value(sequences) AS sequences,
    any_value(clusters) AS clusters
FROM tuning_front
GROUP BY run, point;

COMMENT ON VIEW v_tuning_front IS 'A row a measured point of a study: what was estimated on the calibration split, and what the model came to on the tuning split.';
COMMENT ON COLUMN v_tuning_front.point IS 'front-0, front-1, … (fewest learned decisions first), classic or configured.';
COMMENT ON COLUMN v_tuning_front.trial IS 'Number of its trial in the study search; null: it was none.';
COMMENT ON COLUMN v_tuning_front.chosen IS 'Whether it is the policy that is evaluated and certified.';
COMMENT ON COLUMN v_tuning_front.learned_share_estimated IS 'Share of the decisions that the router makes, replayed.';
COMMENT ON COLUMN v_tuning_front.learned_share IS 'The same, measured.';
COMMENT ON COLUMN v_tuning_front.learned_share_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_tuning_front.learned_share_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_tuning_front.loss_difference_estimated IS 'Modelled loss difference to the plain model, in nats a token.';
COMMENT ON COLUMN v_tuning_front.loss_difference IS 'The same, measured.';
COMMENT ON COLUMN v_tuning_front.loss_difference_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_tuning_front.loss_difference_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_tuning_front.relative_loss IS 'Measured loss_difference / loss of the plain model.';
COMMENT ON COLUMN v_tuning_front.set_agreement IS 'Measured share of the replaced decisions whose whole set of experts is the router''s.';
COMMENT ON COLUMN v_tuning_front.sequences IS 'Sequences of the tuning split that the model was run on.';
COMMENT ON COLUMN v_tuning_front.clusters IS 'Clusters of sequences that share groups of documents.';

CREATE VIEW v_tuning_optimism AS
SELECT f.run, f.measure, f.point, f.trial, f.estimated,
    f.measured, f.low AS measured_low, f.high AS measured_high,
    e.value AS heldout, e.low AS heldout_low, e.high AS heldout_high,
    f.measured - f.estimated AS measured_less_estimated,
    e.value - f.measured AS heldout_less_measured,
    e.value - f.estimated AS heldout_less_estimated
FROM tuning_front AS f
LEFT JOIN evaluations AS e ON e.run = f.run AND e.measure = f.measure AND e.arm = 'policy' AND e.layer IS NULL
WHERE f.chosen;

COMMENT ON VIEW v_tuning_optimism IS 'A row a measure of the chosen point: as the search estimated it (calibration split), as it was measured to be chosen (tuning split), and on held-out text that no trial and no choice saw. No rows for a run whose policy was not tuned.';
COMMENT ON COLUMN v_tuning_optimism.measure IS 'learned_share, loss_difference (nats a token), relative_loss or set_agreement.';
COMMENT ON COLUMN v_tuning_optimism.point IS 'The chosen point, see tuning_front.';
COMMENT ON COLUMN v_tuning_optimism.trial IS 'Number of its trial in the study search.';
COMMENT ON COLUMN v_tuning_optimism.estimated IS 'By replaying the calibration split; the loss is modelled.';
COMMENT ON COLUMN v_tuning_optimism.measured IS 'By running the model on the tuning split.';
COMMENT ON COLUMN v_tuning_optimism.measured_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_tuning_optimism.measured_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_tuning_optimism.heldout IS 'By running the model on the held-out split (arm policy of evaluations); null where the policy was not evaluated, as in the columns below.';
COMMENT ON COLUMN v_tuning_optimism.heldout_low IS 'Lower end of its confidence interval; null: none.';
COMMENT ON COLUMN v_tuning_optimism.heldout_high IS 'Upper end of its confidence interval; null: none.';
COMMENT ON COLUMN v_tuning_optimism.measured_less_estimated IS 'measured - estimated: above 0, the model runs with a larger share or loss than the search said (for set_agreement, below 0 is worse).';
COMMENT ON COLUMN v_tuning_optimism.heldout_less_measured IS 'heldout - measured: what choosing among measured points flatters.';
COMMENT ON COLUMN v_tuning_optimism.heldout_less_estimated IS 'heldout - estimated: what tuning flatters altogether.';
