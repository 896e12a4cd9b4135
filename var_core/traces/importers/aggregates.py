"""Importing counts that were added up before they were recorded: they are statistics already."""

from collections.abc import Iterator
from pathlib import Path

from var_core.corpus.files import matched_files
from var_core.errors import VarError
from var_core.files import digest_of, file_digest
from var_core.parquet import write_table
from var_core.progress import Progress
from var_core.statistics.merge import merge_tables
from var_core.statistics.tables import SCHEMAS
from var_core.traces.importers.outputs import ImportTask, OutputFiles
from var_core.traces.importers.sglang import is_stat_dump, stat_counts
from var_core.traces.importers.token_counts import Tables, layer_table, read_token_counts, with_nulls
from var_core.traces.importers.vocabulary import recorded_vocabulary
from var_core.traces.schema import TRACE


def holds_sums(task: ImportTask) -> bool:
    """Whether a corpus holds no decisions, but only sums over them."""
    if task.corpus.format == "token_counts":
        return True
    if task.corpus.format != "sglang":
        return False
    matched = matched_files(task.corpus_name, task.corpus.domains)
    return is_stat_dump(next(iter(matched.values()))[0][0])


def import_counts(task: ImportTask) -> None:
    """Statistics from sums: no decisions, so nothing is held out and there is no trace."""
    contents: list[list[tuple[str, Tables]]] = [[] for _ in range(task.shards["capture"])]
    domains: dict[str, Tables] = {}
    matched = matched_files(task.corpus_name, task.corpus.domains)
    digest = digest_of([[name, file_digest(path)] for files in matched.values() for path, name in files])
    with Progress(len(matched), "domain", f"read {task.run}") as progress:
        for domain, files in matched.items():
            for part, tables in _counted(task, files, domain):
                known = domains.get(part)
                domains[part] = tables if known is None else {k: merge_tables(k, [known[k], tables[k]]) for k in tables}
            progress.advance(1)
    for place, item in enumerate(domains.items()):
        contents[place % len(contents)].append(item)
    layers = sorted({layer for tables in domains.values() for layer in tables["layer_stats"]["layer"].to_pylist()})
    _require_all_layers(task, domains, layers)
    outputs = OutputFiles(task, len(layers), digest, layers)
    for split, count in task.shards.items():
        for number in range(count):
            parts = contents[number] if split == "capture" else []
            merged = {
                kind: merge_tables(kind, [schema.empty_table(), *(tables[kind] for _, tables in parts)])
                for kind, schema in SCHEMAS.items()
            }
            own = digest_of([digest, split, [domain for domain, _ in parts]])
            record = outputs.provenance(split, number, own, sum(_tokens(tables) for _, tables in parts))
            outputs.write_tables(split, number, merged, record)
            if split in task.traced:
                write_table(outputs.path(split, number, "trace"), TRACE.empty_table(), record)
    seen = sorted({token for tables in domains.values() for token in tables["token_stats"]["token_id"].to_pylist()})
    vocabulary = recorded_vocabulary(task.model, seen, seen[-1] + 1 if seen else 0)
    outputs.write_corpus(vocabulary, None)


def _counted(task: ImportTask, files: list[tuple[Path, str]], domain: str) -> Iterator[tuple[str, Tables]]:
    if task.corpus.format == "token_counts":
        yield from read_token_counts(files, domain, task.shape, task.corpus.recorded_model)
        return
    for path, _ in files:
        chosen = stat_counts(path, task.shape)
        empty = {kind: with_nulls({"layer": []}, domain, SCHEMAS[kind]) for kind in ("token_stats", "expert_counts")}
        yield domain, {**empty, "layer_stats": layer_table(dict(enumerate(chosen)), domain, task.model.top_k)}


def _tokens(tables: Tables) -> int:
    return max(tables["layer_stats"]["tokens"].to_pylist(), default=0)


def _require_all_layers(task: ImportTask, domains: dict[str, Tables], layers: list[int]) -> None:
    if task.model.layers is not None and len(layers) != task.model.layers:
        raise VarError(
            f"corpora.{task.corpus_name}: {len(layers)} layers are recorded, but models.{task.model_name}.layers is "
            f"{task.model.layers}"
        )
    for domain, tables in domains.items():
        tokens = dict(zip(*(tables["layer_stats"][name].to_pylist() for name in ("layer", "tokens")), strict=True))
        if sorted(tokens) != layers or len(set(tokens.values())) > 1:
            raise VarError(
                f"corpora.{task.corpus_name}: domain {domain} has {tokens} tokens by layer; every domain must have the "
                f"same number at each of the layers {layers}"
            )
