"""The arms of an evaluation: what the model is run under on the same text. Light, for the workflow reads it."""

from var_core.config.policy import EvaluationConfig

PLAIN, ORACLE, POLICY = "plain", "oracle", "policy"
CONFIGURED = "configured"
TABLES_ONLY, CLASSIC, TOKEN_TABLE = "tables_only", "classic", "token_table"
GLOBAL_TABLE, RANDOM_EXPERTS = "global_table", "random_experts"
SAME_COVERAGE = "_same_coverage"
THRESHOLD = "agreement_"

MEANINGS = {
    PLAIN: "the model as it is",
    ORACLE: "its own decisions on this text, put in their place",
    POLICY: "the policy",
    CONFIGURED: "the policy as configured, before tuning",
    TABLES_ONLY: "the policy without its cache",
    CLASSIC: "the classic predicate as configured: frequent token ids of low mean router entropy",
    TOKEN_TABLE: "every decision from the plain table by token id",
    GLOBAL_TABLE: "control: the same experts for all tokens",
    RANDOM_EXPERTS: "control: experts drawn at random for each token id",
    GLOBAL_TABLE + SAME_COVERAGE: "control: the same experts for all tokens that the tables take",
    RANDOM_EXPERTS + SAME_COVERAGE: "control: random experts for the tokens that the tables take",
}
"""What each arm is; beside these, the policy with other thresholds of agreement."""


def threshold_arm(threshold: float) -> str:
    """Name of the arm with another threshold of agreement."""
    return f"{THRESHOLD}{threshold:g}"


def arm_names(config: EvaluationConfig, tuned: bool = False) -> list[str]:
    """All arms, in the order in which tables and figures have them; without tuning the policy is as configured."""
    own = [arm for arm in MEANINGS if tuned or arm != CONFIGURED]
    return [*own, *map(threshold_arm, config.thresholds)]


def parts(config: EvaluationConfig, tuned: bool = False) -> dict[str, list[str]]:
    """Part, which is a job -> arms that it runs the model under, one after another.

    The plain model and the policy are a part of their own, ``policy``, for the certificate rests on these two.
    """
    others = [arm for arm in arm_names(config, tuned) if arm not in (PLAIN, POLICY)]
    jobs = min(config.jobs, len(others))
    return {POLICY: [PLAIN, POLICY], **{f"controls-{job}": others[job::jobs] for job in range(jobs)}}


def meaning(arm: str) -> str:
    """What an arm is, in words."""
    if arm in MEANINGS:
        return MEANINGS[arm]
    return f"the policy with agreement of at least {arm.removeprefix(THRESHOLD)}"
