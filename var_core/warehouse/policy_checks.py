"""Checks of the tables on a run's policy: parts sum to wholes, and what belongs together is there together."""

from var_core.warehouse.check import Check

POLICY_CHECKS = (
    Check(
        "evaluations",
        """
        SELECT arm, coalesce(layer::VARCHAR, 'all') AS layers, round(sum(value), 12) AS total
        FROM evaluations
        WHERE run = $run AND measure IN ('fast_share', 'cache_share', 'learned_share')
        GROUP BY arm, layer HAVING count(value) <> 3 OR abs(sum(value) - 1) > 1e-9
        """,
        "the shares of the ways of arm {arm}, layer {layers}, sum to {total}, and not to 1",
    ),
    Check(
        "evaluations",
        """
        SELECT e.arm, coalesce(e.layer::VARCHAR, 'all') AS layers, any_value(e.value) AS coverage
        FROM evaluations AS e
        JOIN evaluations AS part ON part.run = e.run AND part.arm = e.arm AND part.layer IS NOT DISTINCT FROM e.layer
        WHERE e.run = $run AND e.measure = 'coverage' AND part.measure IN ('fast_share', 'cache_share')
        GROUP BY e.arm, e.layer HAVING abs(sum(part.value) - any_value(e.value)) > 1e-9
        """,
        "arm {arm}, layer {layers}, has coverage {coverage}, which is not the sum of its fast and cached shares",
    ),
    Check(
        "evaluations",
        """
        SELECT arm, measure, low, high FROM evaluations
        WHERE run = $run AND (low > high OR (low IS NULL) <> (high IS NULL))
        """,
        "arm {arm}, measure {measure}, has an interval from {low} to {high}",
    ),
    Check(
        "evaluations",
        """
        SELECT arm, count(*) AS layers, any_value((SELECT layers FROM runs WHERE run = $run)) AS expected
        FROM evaluations WHERE run = $run AND measure = 'coverage' AND layer IS NOT NULL
        GROUP BY arm HAVING count(*) <> expected
        """,
        "arm {arm} has ways of {layers} layers, but the run has {expected}",
    ),
    Check(
        "policies",
        """
        SELECT coalesce(p.layer, l.layer) AS layer
        FROM (SELECT layer FROM policies WHERE run = $run) AS p
        FULL JOIN (SELECT layer FROM layers WHERE run = $run) AS l USING (layer)
        WHERE (p.layer IS NULL OR l.layer IS NULL) AND EXISTS (
            FROM (SELECT run FROM policies UNION ALL SELECT run FROM evaluations) WHERE run = $run
        )
        """,
        "layer {layer} is in only one of this table and table layers",
    ),
    Check(
        "policies",
        """
        SELECT layer, token_usable, token_entries, pair_usable, pair_entries
        FROM policies WHERE run = $run AND (token_usable > token_entries OR pair_usable > pair_entries)
        """,
        "layer {layer} uses {token_usable} of {token_entries} tokens and {pair_usable} of {pair_entries} pairs",
    ),
    Check(
        "certificates",
        """
        SELECT certified, evaluated
        FROM (SELECT count(*) AS certified FROM certificates WHERE run = $run),
            (SELECT count(*) AS evaluated FROM evaluations WHERE run = $run AND arm = 'policy')
        WHERE (certified = 0) <> (evaluated = 0)
        """,
        "has {certified} promises, but the policy's evaluation has {evaluated} rows; what is certified was evaluated",
    ),
    Check(
        "certificates",
        """
        SELECT promise, coalesce(layer::VARCHAR, 'all') AS layers, direction, bound, estimate
        FROM certificates
        WHERE run = $run AND NOT CASE direction
            WHEN 'at least' THEN bound <= estimate + 1e-9
            WHEN 'at most' THEN bound >= estimate - 1e-9
            ELSE false
        END
        """,
        "promise {promise}, layer {layers}, is {direction} {bound}, but {estimate} was seen",
    ),
    Check(
        "policy_gains",
        """
        SELECT layer, measure, coverage, gain, all_tables, token_tables
        FROM policy_gains WHERE run = $run AND abs(all_tables - token_tables - gain) > 1e-9
        """,
        "layer {layer}, measure {measure}, coverage {coverage}, has gain {gain}, which is not {all_tables} less "
        "{token_tables}",
    ),
    Check(
        "policy_frequencies",
        """
        SELECT arm, from_count, coalesce(sum(decisions) FILTER (layer IS NULL), 0) AS together,
            coalesce(sum(decisions) FILTER (layer IS NOT NULL), 0) AS by_layer
        FROM policy_frequencies WHERE run = $run GROUP BY arm, from_count HAVING together <> by_layer
        """,
        "arm {arm}, tokens of {from_count} occurrences on, has {together} decisions, but {by_layer} at its layers",
    ),
    Check(
        "transfer",
        """
        SELECT made_on, evaluated_on
        FROM (SELECT DISTINCT made_on FROM transfer WHERE run = $run)
        CROSS JOIN (SELECT DISTINCT evaluated_on FROM transfer WHERE run = $run)
        ANTI JOIN (FROM transfer WHERE run = $run AND measure = 'loss_difference') USING (made_on, evaluated_on)
        """,
        "has no loss for the policy of domain {made_on} on domain {evaluated_on}",
    ),
)
