"""Checks of the tables on what routing is worth: counts and shares add up, and no cache beats what knows the future."""

from var_core.warehouse.check import Check

_PASS = "model, device, phase, batch, context"

SYSTEMS_CHECKS = (
    Check(
        "costs",
        f"""
        SELECT {_PASS}, round(sum(share), 9) AS by_seconds, round(sum(flops_share), 9) AS by_operations
        FROM costs WHERE run = $run AND part <> 'gate+top_k'
        GROUP BY {_PASS} HAVING abs(sum(share) - 1) > 1e-6 OR abs(sum(flops_share) - 1) > 1e-6
        """,
        "the shares of the parts of {model} on {device}, {phase}, batch {batch}, context {context}, sum to "
        "{by_seconds} by seconds and {by_operations} by operations, and not to 1",
    ),
    Check(
        "costs",
        f"""
        SELECT {_PASS},
            coalesce(sum(seconds) FILTER (part = 'gate+top_k'), 0) AS together,
            sum(seconds) FILTER (part IN ('gate', 'top_k')) AS apart
        FROM costs WHERE run = $run AND part IN ('gate', 'top_k', 'gate+top_k')
        GROUP BY {_PASS} HAVING abs(together - apart) > 1e-9 * apart
        """,
        "gate+top_k of {model} on {device}, {phase}, batch {batch}, context {context}, takes {together} seconds, but "
        "its two parts {apart}",
    ),
    Check(
        "costs",
        f"""
        SELECT {_PASS}, part, ceiling, share FROM costs
        WHERE run = $run AND (ceiling < 1 OR abs(1 - 1 / ceiling - share) > 1e-9)
        """,
        "part {part} of {model} on {device}, {phase}, batch {batch}, context {context}, has share {share} and ceiling "
        "{ceiling}, which are not those of one part",
    ),
    Check(
        "profiles",
        """
        SELECT arm, phase, batch, instrument, round(sum(share) FILTER (part <> 'whole'), 9) AS total
        FROM profiles WHERE run = $run
        GROUP BY arm, phase, batch, context, instrument
        HAVING count(*) FILTER (part = 'whole') <> 1 OR (instrument = 'none') <> (total IS NULL)
            OR abs(total - 1) > 1e-6
        """,
        "the shares of the parts of arm {arm}, {phase}, batch {batch}, by {instrument}, sum to {total}, and not to 1; "
        "or it has no whole",
    ),
    Check(
        "profiles",
        """
        SELECT arm, phase, batch, part, low, seconds, high FROM profiles
        WHERE run = $run AND (low > seconds OR high < seconds OR (low IS NULL) <> (high IS NULL))
        """,
        "arm {arm}, {phase}, batch {batch}, part {part}, takes {seconds} seconds, with an interval from {low} to "
        "{high}",
    ),
    Check(
        "cache_simulations",
        """
        SELECT phase, batch, sharing, capacity_share, policy, accesses, hits, loads
        FROM cache_simulations
        WHERE run = $run AND (hits + loads <> accesses OR abs(hit_rate * accesses - hits) > 1e-6 * accesses)
        """,
        "{policy}, {phase}, batch {batch}, {sharing} cache of {capacity_share} of the experts, has {hits} hits and "
        "{loads} loads at {accesses} accesses (or another hit rate); the two make up the third",
    ),
    Check(
        "cache_simulations",
        """
        SELECT phase, batch, sharing, capacity_share, policy, loads_an_access, loads, prefetched, useless, accesses
        FROM cache_simulations
        WHERE run = $run AND (
            abs(loads_an_access * accesses - loads - prefetched) > 1e-6 * accesses
            -- What a prompt's pass prefetched may turn out useless in those that follow it.
            OR (useless > prefetched AND NOT recorded)
        )
        """,
        "{policy}, {phase}, batch {batch}, {sharing} cache of {capacity_share} of the experts, has {loads_an_access} "
        "loads an access with {loads} loads, {prefetched} prefetches ({useless} useless) and {accesses} accesses",
    ),
    Check(
        "cache_simulations",
        """
        WITH moved AS (
            -- A recording's phases fill one cache, and the fewest loads are those of both together.
            SELECT CASE WHEN recorded THEN 'both phases' ELSE phase END AS phases, batch, start, sharing,
                capacity_share, device, policy, sum(loads + prefetched) AS loads
            FROM cache_simulations WHERE run = $run GROUP BY ALL
        ),
        sizes AS (
            -- Of experts of several sizes the optimum is not known; within a layer all have one.
            SELECT max(moved_bytes / (loads + prefetched)) AS most, min(moved_bytes / (loads + prefetched)) AS least
            FROM cache_simulations WHERE run = $run AND loads + prefetched > 0
        )
        SELECT phases, batch, start, sharing, capacity_share, o.policy, o.loads AS loads, b.loads AS optimum
        FROM moved AS o
        JOIN moved AS b USING (phases, batch, start, sharing, capacity_share)
        CROSS JOIN sizes
        WHERE b.policy = 'belady' AND b.device IS NOT DISTINCT FROM o.device AND o.loads < b.loads
            AND (sharing = 'per_layer' OR most IS NULL OR most - least <= 1e-9 * most)
        """,
        "{policy}, {phases}, batch {batch}, {start} {sharing} cache of {capacity_share} of the experts, loads {loads} "
        "experts, fewer than the {optimum} of belady, which are the fewest possible",
    ),
    Check(
        "offloaded",
        """
        SELECT arm, phase, accesses, hits, demand_loads, capacity FROM offloaded
        WHERE run = $run AND ((capacity IS NULL) <> (accesses IS NULL) OR hits + demand_loads <> accesses)
        """,
        "arm {arm}, {phase}, with {capacity} experts in memory, has {hits} hits and {demand_loads} loads at {accesses} "
        "accesses; the two make up the third",
    ),
    Check(
        "offloaded",
        """
        SELECT arm, round(hit_rate, 4) AS measured, round(predicted_hit_rate, 4) AS replayed
        FROM offloaded
        -- Random predictions are drawn anew in the replay, and few accesses differ by chance.
        WHERE run = $run AND phase = 'decode' AND arm <> 'random' AND accesses >= 500
            AND abs(hit_rate - predicted_hit_rate) > 0.02
        """,
        "arm {arm} was measured to have a hit rate of {measured} in decoding, but the replay of the recorded routing "
        "says {replayed}: more than 2 points apart",
    ),
    Check(
        "break_even",
        """
        SELECT b.policy, b.device, b.batch, b.capacity_share, b.recall, s.recall AS simulated
        FROM break_even AS b
        LEFT JOIN cache_simulations AS s
            ON s.run = b.run AND s.phase = 'decode' AND s.batch = b.batch AND s.start = 'warm'
            AND s.sharing = 'shared' AND s.capacity_share = b.capacity_share AND s.policy = b.policy
            AND s.device = b.device
        WHERE b.run = $run AND b."case" = 'offloaded' AND b.source = 'replayed'
            AND b.recall IS DISTINCT FROM s.recall
        """,
        "{policy} on {device}, batch {batch}, cache of {capacity_share} of the experts, has recall {recall}, but "
        "{simulated} in cache_simulations",
    ),
    Check(
        "break_even",
        """
        SELECT b.policy, b.speed_up, o.tokens_per_second / lru.tokens_per_second AS measured
        FROM (SELECT * FROM break_even WHERE run = $run AND source = 'run') AS b
        LEFT JOIN offloaded AS o ON o.run = b.run AND o.arm = b.policy AND o.phase = 'decode'
        LEFT JOIN offloaded AS lru ON lru.run = b.run AND lru.arm = 'lru' AND lru.phase = 'decode'
        WHERE measured IS NULL OR abs(b.speed_up - measured) > 1e-9 * measured
        """,
        "{policy}, really run, is {speed_up} times as fast as lru, but {measured} times by the tokens a second in "
        "offloaded",
    ),
    Check(
        "break_even",
        """
        SELECT architecture, "case", device, batch, policy, coalesce(speed_up, speed_up_modelled) AS speed, verdict,
            speed_up_low AS low, speed_up_high AS high
        FROM break_even
        WHERE run = $run AND (
            (verdict = 'pays' AND speed <= 1) OR (verdict = 'does not pay' AND speed >= 1)
            OR low > high OR (low IS NULL) <> (high IS NULL)
        )
        """,
        "{policy} for {architecture}, {case}, on {device}, batch {batch}, is {speed} times as fast (from {low} to "
        "{high}), and its verdict is: {verdict}",
    ),
)
