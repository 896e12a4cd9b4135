-- The tables of the warehouse. Their meaning, column by column, is in comments.sql, which is put into the
-- database as COMMENT ON.
--
-- There are no primary keys: an index over every row would take longer to build than all the rest and would
-- double the file. Uniqueness is checked once, after loading (checks.py).

CREATE TABLE runs (
    run              VARCHAR NOT NULL,
    model            VARCHAR NOT NULL,
    corpus           VARCHAR NOT NULL,
    model_source     VARCHAR,
    model_revision   VARCHAR,
    model_digest     VARCHAR,
    corpus_digest    VARCHAR,
    plan             VARCHAR NOT NULL,
    layers           INTEGER NOT NULL,
    experts          INTEGER NOT NULL,
    top_k            INTEGER NOT NULL,
    sequence_length  INTEGER,
    capture_tokens   BIGINT NOT NULL,
    heldout_tokens   BIGINT NOT NULL,
    provenance       JSON NOT NULL
);

CREATE TABLE layers (
    run      VARCHAR NOT NULL,
    layer    SMALLINT NOT NULL,
    path     VARCHAR NOT NULL,
    experts  INTEGER NOT NULL,
    top_k    INTEGER NOT NULL
);

CREATE TABLE tokens (
    run            VARCHAR NOT NULL,
    token_id       INTEGER NOT NULL,
    token          VARCHAR NOT NULL,
    special        BOOLEAN NOT NULL,
    capture_count  BIGINT NOT NULL,
    heldout_count  BIGINT NOT NULL
);

CREATE TABLE documents (
    run       VARCHAR NOT NULL,
    document  INTEGER NOT NULL,
    name      VARCHAR NOT NULL,
    "group"   VARCHAR NOT NULL,
    domain    VARCHAR NOT NULL,
    split     VARCHAR NOT NULL
);

CREATE TABLE decisions (
    run        VARCHAR NOT NULL,
    split      VARCHAR NOT NULL,
    domain     VARCHAR NOT NULL,
    layer      SMALLINT NOT NULL,
    tokens     BIGINT NOT NULL,
    nonfinite  BIGINT,
    dropped    BIGINT NOT NULL
);

CREATE TABLE token_stats (
    run                  VARCHAR NOT NULL,
    split                VARCHAR NOT NULL,
    domain               VARCHAR NOT NULL,
    layer                SMALLINT NOT NULL,
    token_id             INTEGER NOT NULL,
    n                    BIGINT NOT NULL,
    router_entropy_mean  DOUBLE,
    router_entropy_m2    DOUBLE,
    confidence_mean      DOUBLE,
    confidence_m2        DOUBLE,
    margin_mean          DOUBLE,
    margin_m2            DOUBLE
);

CREATE TABLE expert_counts (
    run         VARCHAR NOT NULL,
    split       VARCHAR NOT NULL,
    domain      VARCHAR NOT NULL,
    layer       SMALLINT NOT NULL,
    token_id    INTEGER NOT NULL,
    expert      SMALLINT NOT NULL,
    chosen      BIGINT NOT NULL,
    first       BIGINT,
    weight_sum  DOUBLE
);

CREATE TABLE expert_load (
    run         VARCHAR NOT NULL,
    split       VARCHAR NOT NULL,
    layer       SMALLINT NOT NULL,
    expert      SMALLINT NOT NULL,
    chosen      BIGINT NOT NULL,
    first       BIGINT,
    weight_sum  DOUBLE,
    tokens      BIGINT NOT NULL
);

CREATE TABLE domain_counts (
    run         VARCHAR NOT NULL,
    split       VARCHAR NOT NULL,
    domain      VARCHAR NOT NULL,
    layer       SMALLINT NOT NULL,
    expert      SMALLINT NOT NULL,
    chosen      BIGINT NOT NULL,
    first       BIGINT,
    weight_sum  DOUBLE,
    tokens      BIGINT NOT NULL
);

CREATE TABLE coactivation (
    run           VARCHAR NOT NULL,
    split         VARCHAR NOT NULL,
    layer         SMALLINT NOT NULL,
    expert        SMALLINT NOT NULL,
    other_expert  SMALLINT NOT NULL,
    count         BIGINT NOT NULL
);

CREATE TABLE crosslayer (
    run             VARCHAR NOT NULL,
    split           VARCHAR NOT NULL,
    layer           SMALLINT NOT NULL,
    next_layer      SMALLINT NOT NULL,
    expert          SMALLINT NOT NULL,
    next_expert     SMALLINT NOT NULL,
    chosen          BIGINT NOT NULL,
    first           BIGINT,
    first_shuffled  BIGINT
);

CREATE TABLE repeats (
    run            VARCHAR NOT NULL,
    split          VARCHAR NOT NULL,
    domain         VARCHAR NOT NULL,
    layer          SMALLINT NOT NULL,
    pairs          BIGINT,
    first_repeats  BIGINT,
    any_repeats    BIGINT,
    slot_overlaps  BIGINT
);

CREATE TABLE segments (
    run            VARCHAR NOT NULL,
    split          VARCHAR NOT NULL,
    domain         VARCHAR NOT NULL,
    layer          SMALLINT NOT NULL,
    window_length  INTEGER NOT NULL,
    uses           INTEGER NOT NULL,
    cells          BIGINT NOT NULL
);

-- Columns that a run's training.csv or verdicts.parquet has beyond these are added when the run is loaded.
CREATE TABLE training (
    run                  VARCHAR NOT NULL,
    step                 BIGINT NOT NULL,
    tokens               BIGINT,
    loss                 DOUBLE NOT NULL,
    load_balancing_loss  DOUBLE,
    learning_rate        DOUBLE
);

CREATE TABLE hypotheses (
    run              VARCHAR NOT NULL,
    hypothesis       VARCHAR NOT NULL,
    form             VARCHAR NOT NULL,
    variant          VARCHAR NOT NULL,
    layer            SMALLINT,
    measure          VARCHAR NOT NULL,
    statistic        DOUBLE,
    low              DOUBLE,
    high             DOUBLE,
    confidence       DOUBLE,
    interval_method  VARCHAR,
    p                DOUBLE,
    p_adjusted       DOUBLE,
    p_below          DOUBLE,
    "null"           VARCHAR,
    null_mean        DOUBLE,
    null_sd          DOUBLE,
    n                BIGINT NOT NULL,
    n_unit           VARCHAR NOT NULL,
    threshold        DOUBLE,
    direction        VARCHAR,
    supportable      BOOLEAN NOT NULL,
    verdict          VARCHAR NOT NULL,
    note             VARCHAR NOT NULL
);

-- Of a run with a policy; the columns are those of the files, in their order.
CREATE TABLE policies (
    run            VARCHAR NOT NULL,
    layer          SMALLINT NOT NULL,
    predicate      VARCHAR NOT NULL,
    threshold      DOUBLE,
    weights        VARCHAR NOT NULL,
    token_entries  BIGINT NOT NULL,
    token_usable   BIGINT NOT NULL,
    pair_entries   BIGINT NOT NULL,
    pair_usable    BIGINT NOT NULL,
    settings       JSON NOT NULL,
    made_from      JSON NOT NULL
);

CREATE TABLE evaluations (
    run         VARCHAR NOT NULL,
    arm         VARCHAR NOT NULL,
    weights     VARCHAR,
    layer       SMALLINT,
    measure     VARCHAR NOT NULL,
    value       DOUBLE,
    low         DOUBLE,
    high        DOUBLE,
    confidence  DOUBLE,
    n           BIGINT NOT NULL,
    n_unit      VARCHAR NOT NULL,
    note        VARCHAR NOT NULL
);

CREATE TABLE policy_gains (
    run           VARCHAR NOT NULL,
    layer         SMALLINT NOT NULL,
    measure       VARCHAR NOT NULL,
    coverage      DOUBLE NOT NULL,
    token_tables  DOUBLE NOT NULL,
    all_tables    DOUBLE NOT NULL,
    gain          DOUBLE NOT NULL,
    low           DOUBLE,
    high          DOUBLE
);

CREATE TABLE policy_frequencies (
    run            VARCHAR NOT NULL,
    arm            VARCHAR NOT NULL,
    layer          SMALLINT,
    from_count     BIGINT NOT NULL,
    to_count       BIGINT,
    decisions      BIGINT NOT NULL,
    set_agreement  DOUBLE NOT NULL,
    low            DOUBLE,
    high           DOUBLE
);

CREATE TABLE certificates (
    run         VARCHAR NOT NULL,
    layer       SMALLINT,
    promise     VARCHAR NOT NULL,
    direction   VARCHAR NOT NULL,
    bound       DOUBLE NOT NULL,
    estimate    DOUBLE NOT NULL,
    confidence  DOUBLE NOT NULL,
    clusters    BIGINT NOT NULL,
    sequences   BIGINT NOT NULL,
    method      VARCHAR NOT NULL,
    guarantee   VARCHAR NOT NULL
);

CREATE TABLE transfer (
    run           VARCHAR NOT NULL,
    made_on       VARCHAR NOT NULL,
    evaluated_on  VARCHAR NOT NULL,
    measure       VARCHAR NOT NULL,
    value         DOUBLE,
    low           DOUBLE,
    high          DOUBLE,
    n             BIGINT NOT NULL,
    n_unit        VARCHAR NOT NULL
);

-- Of a run whose policy's settings were searched.
CREATE TABLE tuning_trials (
    run                   VARCHAR NOT NULL,
    study                 VARCHAR NOT NULL,
    number                INTEGER NOT NULL,
    worker                SMALLINT NOT NULL,
    state                 VARCHAR NOT NULL,
    began_as              VARCHAR,
    seconds               DOUBLE,
    learned_share         DOUBLE,
    loss_difference       DOUBLE,
    relative_loss         DOUBLE,
    set_agreement         DOUBLE,
    recall_at_k           DOUBLE,
    misplaced             DOUBLE,
    violation             DOUBLE,
    on_front              BOOLEAN NOT NULL,
    hypervolume           DOUBLE,
    predicate             VARCHAR NOT NULL,
    tables                VARCHAR NOT NULL,
    thresholds            VARCHAR NOT NULL,
    agreement_threshold   DOUBLE[],
    frequency_threshold   BIGINT[],
    entropy_threshold     DOUBLE[],
    weights               VARCHAR NOT NULL,
    capacity              BIGINT NOT NULL,
    context_window        BIGINT,
    time_to_live          BIGINT,
    confidence_threshold  DOUBLE
);

CREATE TABLE tuning_importances (
    run         VARCHAR NOT NULL,
    study       VARCHAR NOT NULL,
    objective   VARCHAR NOT NULL,
    parameter   VARCHAR NOT NULL,
    importance  DOUBLE NOT NULL
);

CREATE TABLE tuning_front (
    run        VARCHAR NOT NULL,
    point      VARCHAR NOT NULL,
    trial      INTEGER,
    chosen     BOOLEAN NOT NULL,
    split      VARCHAR NOT NULL,
    measure    VARCHAR NOT NULL,
    estimated  DOUBLE,
    measured   DOUBLE NOT NULL,
    low        DOUBLE,
    high       DOUBLE,
    sequences  BIGINT NOT NULL,
    clusters   BIGINT NOT NULL
);
