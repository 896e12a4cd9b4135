"""Checks of the tables on a search for a policy's settings: the front is one, and what is measured was tried."""

from var_core.warehouse.check import Check

TUNING_CHECKS = (
    Check(
        "tuning_trials",
        """
        SELECT study, number FROM tuning_trials
        WHERE run = $run AND state = 'complete' AND (learned_share IS NULL OR loss_difference IS NULL)
        """,
        "trial {number} of study {study} is complete, but has no learned share or no loss",
    ),
    Check(
        "tuning_trials",
        "SELECT study, number, state FROM tuning_trials WHERE run = $run AND on_front AND state <> 'complete'",
        "trial {number} of study {study} is on the front, but is {state}",
    ),
    Check(
        "tuning_trials",
        """
        SELECT f.study, f.number, min(o.number) AS better
        FROM tuning_trials AS f
        JOIN tuning_trials AS o ON o.run = f.run AND o.study = f.study AND o.state = 'complete'
            AND o.learned_share <= f.learned_share AND o.loss_difference <= f.loss_difference
            AND (o.learned_share < f.learned_share OR o.loss_difference < f.loss_difference)
        WHERE f.run = $run AND f.on_front
        GROUP BY f.study, f.number
        """,
        "trial {number} of study {study} is on the front, but trial {better} is better in one and not worse in the "
        "other",
    ),
    Check(
        "tuning_trials",
        """
        SELECT f.study, f.number
        FROM tuning_trials AS f
        ANTI JOIN tuning_trials AS o ON o.run = f.run AND o.study = f.study AND o.state = 'complete'
            AND o.number <> f.number
            AND o.learned_share <= f.learned_share AND o.loss_difference <= f.loss_difference
        WHERE f.run = $run AND f.state = 'complete' AND NOT f.on_front
        """,
        "trial {number} of study {study} is not on the front, but no trial is as good in both",
    ),
    Check(
        "tuning_trials",
        """
        SELECT study, number, hypervolume, before
        FROM (
            SELECT study, number, hypervolume,
                max(hypervolume) OVER (
                    PARTITION BY study ORDER BY number ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ) AS before
            FROM tuning_trials WHERE run = $run
        )
        WHERE hypervolume < before - 1e-12
        """,
        "the hypervolume of study {study} falls from {before} to {hypervolume} with trial {number}",
    ),
    Check(
        "tuning_trials",
        """
        SELECT study, number, len(threshold) AS thresholds, (SELECT layers FROM runs WHERE run = $run) AS layers
        FROM tuning_trials, unnest([
            agreement_threshold, frequency_threshold::DOUBLE[], entropy_threshold
        ]) AS of_trial(threshold)
        WHERE run = $run AND len(threshold) NOT IN (1, layers)
        """,
        "trial {number} of study {study} has {thresholds} thresholds; of {layers} layers, there are {layers} or one",
    ),
    Check(
        "tuning_trials",
        """
        SELECT study, number, capacity, context_window
        FROM tuning_trials WHERE run = $run AND (capacity = 0) <> (context_window IS NULL)
        """,
        "trial {number} of study {study} has a cache of {capacity} contexts, and a context window of {context_window}",
    ),
    Check(
        "tuning_importances",
        """
        SELECT study, objective, min(importance) AS least, sum(importance) AS total
        FROM tuning_importances WHERE run = $run
        GROUP BY study, objective HAVING least < -1e-9 OR total > 1 + 1e-9
        """,
        "the importances of study {study} for {objective} sum to {total}, the least being {least}; they are shares of "
        "one whole",
    ),
    Check(
        "tuning_front",
        """
        SELECT count(DISTINCT point) FILTER (chosen) AS points
        FROM tuning_front WHERE run = $run
        HAVING points <> 1 AND EXISTS (
            FROM (SELECT run FROM tuning_front UNION ALL SELECT run FROM tuning_trials) WHERE run = $run
        )
        """,
        "has {points} chosen points, and not one",
    ),
    Check(
        "tuning_front",
        """
        SELECT point, measure, chosen, trial
        FROM tuning_front AS f
        JOIN (SELECT point, min(chosen) AS least, min(trial) AS first FROM tuning_front WHERE run = $run GROUP BY point)
            USING (point)
        WHERE run = $run AND (chosen <> least OR trial IS DISTINCT FROM first)
        """,
        "point {point} is another trial, or otherwise chosen, at measure {measure} ({trial}, {chosen})",
    ),
    Check(
        "tuning_front",
        """
        SELECT point, measure
        FROM (SELECT DISTINCT point FROM tuning_front WHERE run = $run)
        CROSS JOIN (
            SELECT unnest(['learned_share', 'loss_difference', 'relative_loss', 'set_agreement']) AS measure
        )
        ANTI JOIN (FROM tuning_front WHERE run = $run) USING (point, measure)
        -- Of no replaced decisions there is no agreement.
        WHERE measure <> 'set_agreement' OR point IN (
            SELECT point FROM tuning_front WHERE run = $run AND measure = 'learned_share' AND measured < 1
        )
        """,
        "point {point} has no {measure}",
    ),
    Check(
        "tuning_front",
        """
        SELECT point, measure, low, high FROM tuning_front
        WHERE run = $run AND (low > high OR (low IS NULL) <> (high IS NULL))
        """,
        "point {point}, measure {measure}, has an interval from {low} to {high}",
    ),
    Check(
        "tuning_front",
        """
        WITH searched AS (
            UNPIVOT (
                SELECT number AS trial, learned_share, loss_difference, relative_loss,
                    -- NaN in trials, null in points: of no replaced decisions.
                    CASE WHEN NOT isnan(set_agreement) THEN set_agreement END AS set_agreement
                FROM tuning_trials WHERE run = $run AND study = 'search' AND state = 'complete'
            )
            ON learned_share, loss_difference, relative_loss, set_agreement INTO NAME measure VALUE tried
        )
        SELECT point, trial, measure, estimated, tried
        FROM (FROM tuning_front WHERE run = $run AND trial IS NOT NULL)
        LEFT JOIN searched USING (trial, measure)
        WHERE estimated IS DISTINCT FROM tried AND coalesce(abs(estimated - tried) > 1e-9, true)
        """,
        "point {point} is estimated to have {measure} {estimated}, but trial {trial} came to {tried}",
    ),
)
