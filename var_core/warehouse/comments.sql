-- What every table and column means: grain, unit, source. Put into the database, so that
--     SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal
-- lists it. Columns that mean the same everywhere (run, split, domain, layer, token_id, …) are in schema.py.

COMMENT ON TABLE runs IS 'A row a run: one model on one corpus.';
COMMENT ON COLUMN runs.run IS 'Name of the run, {model}/{corpus}; every table has it, and joins go by it.';
COMMENT ON COLUMN runs.model IS 'Name of the model in the configuration.';
COMMENT ON COLUMN runs.corpus IS 'Name of the corpus in the configuration.';
COMMENT ON COLUMN runs.model_source IS 'Where the model comes from, as its model.json says: hub, folder or demo; trace where its routing was recorded by others.';
COMMENT ON COLUMN runs.model_revision IS 'Commit of the model''s repository; null for a model that has none.';
COMMENT ON COLUMN runs.model_digest IS 'Digest of the model''s folder, which identifies its weights and tokenizer.';
COMMENT ON COLUMN runs.corpus_digest IS 'Digest of the corpus''s documents.';
COMMENT ON COLUMN runs.plan IS 'Digest of the plan that the capture split was captured under (that of every split is in provenance).';
COMMENT ON COLUMN runs.layers IS 'L, number of MoE layers.';
COMMENT ON COLUMN runs.experts IS 'E, experts a layer (the largest, should layers differ; see the table layers).';
COMMENT ON COLUMN runs.top_k IS 'k, experts chosen for a token (the largest, should layers differ).';
COMMENT ON COLUMN runs.sequence_length IS 'Tokens a sequence; null where it varies (recorded routing).';
COMMENT ON COLUMN runs.capture_tokens IS 'Tokens of the capture split, on which tables and statistics are fitted.';
COMMENT ON COLUMN runs.heldout_tokens IS 'Tokens of the held-out split, on which nothing is fitted.';
COMMENT ON COLUMN runs.provenance IS 'JSON: what the run was made from. statistics.{split}: settings, versions, code digests; model: model.json; corpus: the manifest; warehouse_code.';

COMMENT ON TABLE layers IS 'A row an MoE layer of a run.';
COMMENT ON COLUMN layers.layer IS 'MoE layers counted from 0 in the order in which they run (dense layers are not counted).';
COMMENT ON COLUMN layers.path IS 'Path of the experts module inside the model.';
COMMENT ON COLUMN layers.experts IS 'E, experts of this layer.';
COMMENT ON COLUMN layers.top_k IS 'k, experts that this layer chooses for a token.';

COMMENT ON TABLE documents IS 'A row a document of a run''s corpus, without its text.';
COMMENT ON COLUMN documents.document IS 'Number of the document, as in traces; together with run the key.';
COMMENT ON COLUMN documents.name IS 'Name of the document.';
COMMENT ON COLUMN documents."group" IS 'What it belongs to (a package, a file); all documents of a group are in one split, and are resampled together.';
COMMENT ON COLUMN documents.split IS 'train, capture or heldout.';

COMMENT ON TABLE tokens IS 'A row a token id of a run''s vocabulary, also of those that never occur.';
COMMENT ON COLUMN tokens.token_id IS 'Token id; together with run the key.';
COMMENT ON COLUMN tokens.token IS 'Text of the token as a reader would see it.';
COMMENT ON COLUMN tokens.special IS 'True for special tokens (BOS, EOS, …): counted everywhere, but no token type in the sense of H1 to H4.';
COMMENT ON COLUMN tokens.capture_count IS 'Occurrences in the capture split (n at layer 0).';
COMMENT ON COLUMN tokens.heldout_count IS 'Occurrences in the held-out split (n at layer 0).';

COMMENT ON TABLE decisions IS 'A row a (split, domain, layer): how many decisions were counted and how many could not be.';
COMMENT ON COLUMN decisions.tokens IS 'Decisions counted, one a token.';
COMMENT ON COLUMN decisions.nonfinite IS 'Decisions left out because a router logit or a weight was NaN or infinite; null where router logits were not recorded.';
COMMENT ON COLUMN decisions.dropped IS 'Decisions that gave the token to no expert, or of which no record was kept, left out too.';

COMMENT ON TABLE token_stats IS 'A row a (split, domain, layer, token id) that occurs: moments of per-decision quantities. Domains pooled: v_token_stats.';
COMMENT ON COLUMN token_stats.n IS 'Occurrences, so decisions.';
COMMENT ON COLUMN token_stats.router_entropy_mean IS 'Mean router entropy -sum p ln p over the router''s probabilities of all E experts, in nats, 0 to ln E; null where router logits were not recorded.';
COMMENT ON COLUMN token_stats.router_entropy_m2 IS 'Sum of squared deviations of the router entropy from its mean, in nats squared; variance = m2 / (n - 1); null where router logits were not recorded.';
COMMENT ON COLUMN token_stats.confidence_mean IS 'Mean of the largest router probability, 0 to 1; null where router logits were not recorded.';
COMMENT ON COLUMN token_stats.confidence_m2 IS 'Sum of squared deviations of the confidence from its mean; null where router logits were not recorded.';
COMMENT ON COLUMN token_stats.margin_mean IS 'Mean of the probability of the k-th chosen expert minus that of the best not chosen; null where router logits were not recorded.';
COMMENT ON COLUMN token_stats.margin_m2 IS 'Sum of squared deviations of the margin from its mean; null where router logits were not recorded.';

COMMENT ON TABLE expert_counts IS 'A row a (split, domain, layer, token id, expert) with chosen > 0: exact counts. Domains pooled: v_expert_counts.';
COMMENT ON COLUMN expert_counts.chosen IS 'c_e: decisions in which the expert was among the k chosen; their sum over experts is k n.';
COMMENT ON COLUMN expert_counts.first IS 'f_e: decisions in which it had the largest weight; their sum over experts is n; null where weights were not recorded.';

COMMENT ON TABLE expert_load IS 'A row a (split, layer, expert), domains and tokens pooled, also for experts that were never chosen.';
COMMENT ON COLUMN expert_load.chosen IS 'Decisions in which the expert was among the k chosen.';
COMMENT ON COLUMN expert_load.first IS 'Decisions in which it had the largest weight; null where weights were not recorded.';
COMMENT ON COLUMN expert_load.tokens IS 'N, all decisions of the layer (the same for all experts), so chosen / tokens is the share; even: k / E.';

COMMENT ON TABLE domain_counts IS 'A row a (split, domain, layer, expert), tokens pooled, also for experts that were never chosen.';
COMMENT ON COLUMN domain_counts.chosen IS 'Decisions of the domain in which the expert was among the k chosen.';
COMMENT ON COLUMN domain_counts.first IS 'Decisions of the domain in which it had the largest weight; null where weights were not recorded.';
COMMENT ON COLUMN domain_counts.tokens IS 'All decisions of the domain at this layer (the same for all experts).';

COMMENT ON TABLE coactivation IS 'A row an ordered pair of experts of a (split, layer), domains pooled: how often both were chosen for the same token. All pairs of chosen experts count, not only neighbours in rank.';
COMMENT ON COLUMN coactivation.expert IS 'Expert i, from 0.';
COMMENT ON COLUMN coactivation.other_expert IS 'Expert j, from 0; the diagonal (j = i) is there too.';
COMMENT ON COLUMN coactivation.count IS 'N_ij, decisions that chose both; on the diagonal N_i, decisions that chose i.';

COMMENT ON TABLE crosslayer IS 'A row a pair of experts of two adjacent MoE layers of a split, domains pooled: how often the same token chose both.';
COMMENT ON COLUMN crosslayer.next_layer IS 'The MoE layer after it, layer + 1.';
COMMENT ON COLUMN crosslayer.expert IS 'Expert of layer.';
COMMENT ON COLUMN crosslayer.next_expert IS 'Expert of next_layer.';
COMMENT ON COLUMN crosslayer.chosen IS 'Tokens that chose expert at layer and next_expert at next_layer; the sum over all pairs is k squared times the tokens.';
COMMENT ON COLUMN crosslayer.first IS 'Tokens for which they had the largest weights; the sum over all pairs is the number of tokens; null where weights were not recorded.';
COMMENT ON COLUMN crosslayer.first_shuffled IS 'The same with the next layer''s decisions shuffled within each sequence: the null that keeps the text and breaks the token; null where weights were not recorded.';

COMMENT ON TABLE repeats IS 'A row a (split, domain, layer): how often consecutive tokens of one document, within one sequence, share experts. Rates and chance levels: v_repeats.';
COMMENT ON COLUMN repeats.pairs IS 'Pairs of consecutive tokens; null, as the columns below, where the order was not recorded.';
COMMENT ON COLUMN repeats.first_repeats IS 'Pairs with the same largest-weight expert; null where weights or the order were not recorded.';
COMMENT ON COLUMN repeats.any_repeats IS 'Pairs whose chosen sets meet; null where the order was not recorded.';
COMMENT ON COLUMN repeats.slot_overlaps IS 'Sizes of the sets'' intersections, summed over pairs; null where the order was not recorded.';

COMMENT ON TABLE segments IS 'A row a (split, domain, layer, window length, uses): pairs of a window of consecutive tokens of a document and an expert that is used in it so often, from the traces. Rates: v_segment_predictability.';
COMMENT ON COLUMN segments.window_length IS 'm, tokens of a window; windows overlap, every run of m consecutive tokens is one.';
COMMENT ON COLUMN segments.uses IS 'Tokens of the window that chose the expert, 1 to m.';
COMMENT ON COLUMN segments.cells IS 'Pairs of a window and an expert with so many uses.';

COMMENT ON TABLE training IS 'A row a step of the training of a model trained by this workflow; no rows for other models.';
COMMENT ON COLUMN training.step IS 'Training step, from 1.';
COMMENT ON COLUMN training.tokens IS 'Tokens seen so far.';
COMMENT ON COLUMN training.loss IS 'Mean -ln p of the step''s predicted tokens before its update, in nats a token.';
COMMENT ON COLUMN training.load_balancing_loss IS 'Load-balancing loss before its weight: k where all experts are used alike, up to E where all tokens choose the same.';
COMMENT ON COLUMN training.learning_rate IS 'Learning rate of the step.';

COMMENT ON TABLE hypotheses IS 'A row a statistic of one hypothesis at one layer, or pooled over layers; no rows until the hypotheses stage has run.';
COMMENT ON COLUMN hypotheses.hypothesis IS 'H1, H2, H3 or H4.';
COMMENT ON COLUMN hypotheses.form IS 'as stated: as first put forward; corrected: what the verdict should rest on; detail: what explains them.';
COMMENT ON COLUMN hypotheses.variant IS 'Which test this is, for example minimum count 10.';
COMMENT ON COLUMN hypotheses.layer IS 'MoE layer, from 0; null: pooled over layers, or about tokens, which have no layer.';
COMMENT ON COLUMN hypotheses.measure IS 'What the statistic is.';
COMMENT ON COLUMN hypotheses.statistic IS 'Its value; null where it is not defined.';
COMMENT ON COLUMN hypotheses.low IS 'Lower end of the confidence interval.';
COMMENT ON COLUMN hypotheses.high IS 'Upper end of the confidence interval.';
COMMENT ON COLUMN hypotheses.confidence IS 'Confidence of the interval.';
COMMENT ON COLUMN hypotheses.interval_method IS 'How the interval was made.';
COMMENT ON COLUMN hypotheses.p IS 'p-value against the null.';
COMMENT ON COLUMN hypotheses.p_adjusted IS 'p-value after Benjamini-Hochberg over the layers of the same test.';
COMMENT ON COLUMN hypotheses.p_below IS 'p_adjusted that support asks for, beside the interval; null: none.';
COMMENT ON COLUMN hypotheses."null" IS 'The null that p, null_mean and null_sd come from (write "null" in quotes).';
COMMENT ON COLUMN hypotheses.null_mean IS 'Mean of the statistic under the null.';
COMMENT ON COLUMN hypotheses.null_sd IS 'Standard deviation of the statistic under the null.';
COMMENT ON COLUMN hypotheses.n IS 'Sample size, in n_unit.';
COMMENT ON COLUMN hypotheses.n_unit IS 'What n counts.';
COMMENT ON COLUMN hypotheses.threshold IS 'Value that the claim compares the statistic with; null: no claim.';
COMMENT ON COLUMN hypotheses.direction IS 'Side of the threshold that the claim is about: above or below.';
COMMENT ON COLUMN hypotheses.supportable IS 'False where the row cannot support the claim whatever its interval; note says why.';
COMMENT ON COLUMN hypotheses.verdict IS 'supported, not supported, inconclusive (the interval holds the threshold, or too little data), or reported (no claim).';
COMMENT ON COLUMN hypotheses.note IS 'What a reader must know beside the numbers.';

COMMENT ON TABLE policies IS 'A row a layer of a run''s routing policy: what its tables hold, and how it was made; no rows for a run without a policy, as in all tables on policies.';
COMMENT ON COLUMN policies.predicate IS 'What the fast path takes: agreement (entries that agree with the router on the calibration split) or classic (frequent token ids of low mean router entropy).';
COMMENT ON COLUMN policies.threshold IS 'Least agreement of an entry; of the classic predicate the mean router entropy, in nats, to stay below.';
COMMENT ON COLUMN policies.weights IS 'stored: mean weights of the table, the router is not run; live: the router recomputes the weights of the table''s experts.';
COMMENT ON COLUMN policies.token_entries IS 'Token ids that the layer''s table has an entry for.';
COMMENT ON COLUMN policies.token_usable IS 'Those of them that the fast path takes.';
COMMENT ON COLUMN policies.pair_entries IS 'Pairs of the token id before and the token id, or of a position and the token id, with an entry.';
COMMENT ON COLUMN policies.pair_usable IS 'Those of them that the fast path takes.';
COMMENT ON COLUMN policies.settings IS 'JSON: weights, cache (limits and confidence threshold) and budget; the same for all layers.';
COMMENT ON COLUMN policies.made_from IS 'JSON: digests of the model, tokenizer, corpus, statistics, calibration and text that the policy was made from; the same for all layers.';

COMMENT ON TABLE evaluations IS 'A row a (arm, layer, measure): the model on held-out text, under the policy and beside it. All arms ran on the same sequences, and are compared with the plain model sequence by sequence.';
COMMENT ON COLUMN evaluations.arm IS 'What the model ran under: plain, policy, configured (the policy before tuning), tables_only (no cache), classic (the classic predicate), agreement_… (another threshold), oracle (its own decisions), token_table (every decision), and controls: global_table and random_experts, for all tokens or for those that the tables take (…_same_coverage).';
COMMENT ON COLUMN evaluations.weights IS 'Weights of experts that the router did not choose: stored (of the table), live (from the router); null: there are none.';
COMMENT ON COLUMN evaluations.layer IS 'MoE layer, from 0; null: all layers together.';
COMMENT ON COLUMN evaluations.measure IS 'loss (nats a token), perplexity; beside the plain model''s: loss_difference, relative_loss, perplexity_ratio, p_within_margin, p_beyond_margin; of decisions: fast_share, cache_share, learned_share, coverage (fast or cached), cache_hit_rate; of fast and cached decisions, or of one way (…_fast, …_cached): set_agreement, recall_at_k.';
COMMENT ON COLUMN evaluations.value IS 'Its value; null where it is not defined.';
COMMENT ON COLUMN evaluations.low IS 'Lower end of the confidence interval, resampled by cluster; null: none.';
COMMENT ON COLUMN evaluations.high IS 'Upper end of the confidence interval; null: none.';
COMMENT ON COLUMN evaluations.confidence IS 'Confidence of the interval; null where there is none.';
COMMENT ON COLUMN evaluations.n IS 'Sample size, in n_unit.';
COMMENT ON COLUMN evaluations.n_unit IS 'What n counts: clusters (sequences that share groups of documents) or decisions.';
COMMENT ON COLUMN evaluations.note IS 'What a reader must know beside the numbers.';

COMMENT ON TABLE policy_gains IS 'A row a (layer, measure, coverage): held-out agreement of all tables of the policy over that of tables by token id alone, each taking the entries it is surest of; no rows for a policy of token tables alone.';
COMMENT ON COLUMN policy_gains.measure IS 'set_agreement or recall_at_k, with the router on the held-out trace.';
COMMENT ON COLUMN policy_gains.coverage IS 'Share of the layer''s decisions that are taken from the tables, the same for both.';
COMMENT ON COLUMN policy_gains.token_tables IS 'Agreement of tables by token id alone.';
COMMENT ON COLUMN policy_gains.all_tables IS 'Agreement of all tables.';
COMMENT ON COLUMN policy_gains.gain IS 'all_tables - token_tables.';
COMMENT ON COLUMN policy_gains.low IS 'Lower end of the gain''s confidence interval; null with too few clusters.';
COMMENT ON COLUMN policy_gains.high IS 'Upper end of the gain''s confidence interval; null with too few clusters.';

COMMENT ON TABLE policy_frequencies IS 'A row a (arm, layer, range of occurrences of the token id in the capture split): agreement with the router on the held-out trace, every decision taken from its entry, however sure that is.';
COMMENT ON COLUMN policy_frequencies.arm IS 'policy: all its tables; token_table: the one by token id alone.';
COMMENT ON COLUMN policy_frequencies.layer IS 'MoE layer, from 0; null: all layers together.';
COMMENT ON COLUMN policy_frequencies.from_count IS 'Least occurrences of the range.';
COMMENT ON COLUMN policy_frequencies.to_count IS 'Most occurrences of the range; null: no end.';
COMMENT ON COLUMN policy_frequencies.decisions IS 'Held-out decisions on such tokens; with layer null, of all layers.';
COMMENT ON COLUMN policy_frequencies.set_agreement IS 'Share of them whose whole set of experts is the router''s.';
COMMENT ON COLUMN policy_frequencies.low IS 'Lower end of its confidence interval; null with too few clusters.';
COMMENT ON COLUMN policy_frequencies.high IS 'Upper end of its confidence interval; null with too few clusters.';

COMMENT ON TABLE certificates IS 'A row a promise of the policy''s certificate; all of a run hold together with the confidence.';
COMMENT ON COLUMN certificates.layer IS 'MoE layer, from 0; null: the promise is about all layers together.';
COMMENT ON COLUMN certificates.promise IS 'set_agreement (of fast and cached decisions with the router in the running model), learned_share, or clipped_loss_increase (nats a token; sequences beyond the clip count as the clip).';
COMMENT ON COLUMN certificates.direction IS 'at least or at most.';
COMMENT ON COLUMN certificates.bound IS 'What is promised.';
COMMENT ON COLUMN certificates.estimate IS 'What was seen on the text that it was certified on.';
COMMENT ON COLUMN certificates.confidence IS 'Probability with which all promises of the run hold together.';
COMMENT ON COLUMN certificates.clusters IS 'Clusters of sequences that the bound rests on.';
COMMENT ON COLUMN certificates.sequences IS 'Sequences of the text, the same for all promises.';
COMMENT ON COLUMN certificates.method IS 'How the bound was made.';
COMMENT ON COLUMN certificates.guarantee IS 'What holds for bounds of this method.';

COMMENT ON TABLE transfer IS 'A row a (domain that a policy was made on, domain that it was evaluated on, measure): no rows for a corpus of one domain.';
COMMENT ON COLUMN transfer.made_on IS 'Domain whose text alone the policy was fitted to and calibrated on; all: the policy of the run.';
COMMENT ON COLUMN transfer.evaluated_on IS 'Domain whose held-out text the model ran on.';
COMMENT ON COLUMN transfer.measure IS 'loss_difference (nats a token, to the plain model on the same text), coverage, set_agreement or recall_at_k; no row where it is not defined.';
COMMENT ON COLUMN transfer.value IS 'Its value.';
COMMENT ON COLUMN transfer.low IS 'Lower end of its confidence interval; null with too few clusters.';
COMMENT ON COLUMN transfer.high IS 'Upper end of its confidence interval; null with too few clusters.';
COMMENT ON COLUMN transfer.n IS 'Sample size, in n_unit.';
COMMENT ON COLUMN transfer.n_unit IS 'What n counts: clusters or decisions.';

COMMENT ON TABLE tuning_trials IS 'A row a (study, trial) of the search for a policy''s settings: what they are, and what the policy comes to when it is replayed over the calibration trace. No rows for a run whose policy was not tuned.';
COMMENT ON COLUMN tuning_trials.study IS 'search: by the configured sampler; random: as many trials drawn at random, the control.';
COMMENT ON COLUMN tuning_trials.number IS 'Number of the trial in its study, from 0.';
COMMENT ON COLUMN tuning_trials.worker IS 'Job that ran it, from 0.';
COMMENT ON COLUMN tuning_trials.state IS 'complete, or failed: its worker was ended, and its settings were tried again under another number.';
COMMENT ON COLUMN tuning_trials.began_as IS 'classic (the classic predicate) or configured (the policy as configured), which every study begins with; null: the sampler''s.';
COMMENT ON COLUMN tuning_trials.seconds IS 'Seconds that it took; null where it failed, as in the columns of values below.';
COMMENT ON COLUMN tuning_trials.learned_share IS 'Share of the decisions that the router makes.';
COMMENT ON COLUMN tuning_trials.loss_difference IS 'Modelled loss difference to the plain model, in nats a token.';
COMMENT ON COLUMN tuning_trials.relative_loss IS 'loss_difference / loss of the plain model.';
COMMENT ON COLUMN tuning_trials.set_agreement IS 'Share of the replaced decisions whose whole set of experts is the router''s; NaN where none was replaced.';
COMMENT ON COLUMN tuning_trials.recall_at_k IS 'Mean share of the router''s k experts that are among those of the replaced decision; NaN where none was replaced.';
COMMENT ON COLUMN tuning_trials.misplaced IS 'Share of the router''s weights, over all decisions, that the policy gives to other experts or not at all.';
COMMENT ON COLUMN tuning_trials.violation IS 'The greatest by which a constraint is missed, as a share of it; 0 or less where all are met.';
COMMENT ON COLUMN tuning_trials.on_front IS 'Whether no other trial of its study has a smaller learned share and no larger loss difference, or the other way round, whatever was made small; of equal trials the first is.';
COMMENT ON COLUMN tuning_trials.hypervolume IS 'Area of learned share and loss difference that the study''s trials up to this one are better than, up to a fixed worst point.';
COMMENT ON COLUMN tuning_trials.predicate IS 'agreement or classic.';
COMMENT ON COLUMN tuning_trials.tables IS 'token; pair: with token; position: with both.';
COMMENT ON COLUMN tuning_trials.thresholds IS 'global: one for all layers; by_layer: one for each.';
COMMENT ON COLUMN tuning_trials.agreement_threshold IS 'Least agreement of an entry: one number, or one for each layer; null where the predicate does not use it, as the next two.';
COMMENT ON COLUMN tuning_trials.frequency_threshold IS 'More occurrences than this.';
COMMENT ON COLUMN tuning_trials.entropy_threshold IS 'Less mean router entropy than this, in nats.';
COMMENT ON COLUMN tuning_trials.weights IS 'Weights of experts that the router did not choose: stored (of the table) or live (from the router).';
COMMENT ON COLUMN tuning_trials.capacity IS 'Entries of the context cache; 0: none.';
COMMENT ON COLUMN tuning_trials.context_window IS 'Token ids that make a context; null without a cache, as the next two.';
COMMENT ON COLUMN tuning_trials.time_to_live IS 'Tokens after which a context is forgotten.';
COMMENT ON COLUMN tuning_trials.confidence_threshold IS 'Confidence of the router from which on what it decided is used again.';

COMMENT ON TABLE tuning_importances IS 'A row a (study, objective, parameter): how much a setting has to do with a trial''s being among the best tenth (PED-ANOVA). No rows where no setting differs.';
COMMENT ON COLUMN tuning_importances.study IS 'search or random.';
COMMENT ON COLUMN tuning_importances.objective IS 'learned_share or loss_difference.';
COMMENT ON COLUMN tuning_importances.parameter IS 'Setting that was searched.';
COMMENT ON COLUMN tuning_importances.importance IS 'Its share of what all parameters have to do with it.';

COMMENT ON TABLE tuning_front IS 'A row a (point, measure): points of the search''s front and what stands beside them, estimated by replaying the calibration split and measured by running the model on the tuning split. A row a point: v_tuning_front.';
COMMENT ON COLUMN tuning_front.point IS 'front-0, front-1, … (fewest learned decisions first), classic or configured.';
COMMENT ON COLUMN tuning_front.trial IS 'Number of its trial in the study search; null: it was none.';
COMMENT ON COLUMN tuning_front.chosen IS 'Whether it is the policy that is evaluated and certified.';
COMMENT ON COLUMN tuning_front.split IS 'Split that it was measured on.';
COMMENT ON COLUMN tuning_front.measure IS 'learned_share, loss_difference (nats a token), relative_loss, or set_agreement (of replaced decisions).';
COMMENT ON COLUMN tuning_front.estimated IS 'By replaying the calibration split; the loss is modelled; null where it is not defined.';
COMMENT ON COLUMN tuning_front.measured IS 'By running the model on the tuning split.';
COMMENT ON COLUMN tuning_front.low IS 'Lower end of the measured value''s confidence interval, resampled by cluster; null: none.';
COMMENT ON COLUMN tuning_front.high IS 'Upper end of the interval; null: none.';
COMMENT ON COLUMN tuning_front.sequences IS 'Sequences that the model was run on.';
COMMENT ON COLUMN tuning_front.clusters IS 'Clusters of sequences that share groups of documents.';

COMMENT ON TABLE traces IS 'A row a decision, in order: one token at one layer, read from the trace files when queried (only for splits that were traced). File paths are relative to the folder that the workflow ran in; from elsewhere, SET file_search_path first.';
COMMENT ON COLUMN traces.sequence IS 'Number of the sequence within the split, over all shards.';
COMMENT ON COLUMN traces.position IS 'Place in the sequence, from 0.';
COMMENT ON COLUMN traces.document IS 'Row of the corpus''s documents.parquet that the token is from.';
COMMENT ON COLUMN traces.experts IS 'The k chosen experts, in the order that the experts module was given (not always sorted by weight).';
COMMENT ON COLUMN traces.weights IS 'Their weights, in the same order; null where not recorded.';
COMMENT ON COLUMN traces.router_entropy IS 'Router entropy of the decision, in nats; null where not recorded.';
COMMENT ON COLUMN traces.confidence IS 'Largest router probability of the decision; null where not recorded.';
COMMENT ON COLUMN traces.margin IS 'Probability of the k-th chosen expert minus that of the best not chosen; null where not recorded.';

COMMENT ON TABLE shard_token_stats IS 'A row a (split, shard, domain, layer, token id): token_stats before shards were merged, for leave-one-shard-out intervals; read from the shards'' files when queried, as traces is.';
COMMENT ON COLUMN shard_token_stats.n IS 'Occurrences in the shard.';
COMMENT ON COLUMN shard_token_stats.router_entropy_mean IS 'Mean router entropy, in nats.';
COMMENT ON COLUMN shard_token_stats.router_entropy_m2 IS 'Sum of squared deviations of the router entropy from its mean, in nats squared.';
COMMENT ON COLUMN shard_token_stats.confidence_mean IS 'Mean of the largest router probability.';
COMMENT ON COLUMN shard_token_stats.confidence_m2 IS 'Sum of squared deviations of the confidence from its mean.';
COMMENT ON COLUMN shard_token_stats.margin_mean IS 'Mean of the probability of the k-th chosen expert minus that of the best not chosen.';
COMMENT ON COLUMN shard_token_stats.margin_m2 IS 'Sum of squared deviations of the margin from its mean.';
