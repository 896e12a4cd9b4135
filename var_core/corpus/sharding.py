"""The corpus stage of a run: documents to shards of token sequences, for one model's tokenizer."""

import logging
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from var_core.config.capture import MicroShards, Shards
from var_core.config.corpus import CAPTURED_SPLITS, CapturedSplit, MaxTokens, SequencesConfig
from var_core.corpus.dealing import deal, evenly_spread, quotas
from var_core.corpus.packing import PackedDomain, pack
from var_core.corpus.shards import ContentDigest, TokenRows, write_token_shard
from var_core.corpus.tokenise import DocumentTokenizer, tokenised_documents
from var_core.corpus.vocabulary import vocabulary_table
from var_core.errors import VarError
from var_core.files import write_json
from var_core.parquet import read_provenance, write_table

_CHUNK_TOKENS = 1 << 20
_SHARD_NAME = re.compile(rf"(?:{'|'.join(CAPTURED_SPLITS)})-\d{{5}}\.parquet")

_logger = logging.getLogger("var_core.corpus")


def write_token_shards(
    documents: Path,
    model_folder: Path,
    run: str,
    sequences: SequencesConfig,
    shards: Shards,
    micro_shards: MicroShards,
    max_tokens: MaxTokens,
    model_max_positions: int | None,
    output: Path,
    code: str,
) -> None:
    """Tokenise all splits but that for training, pack them, and write them as shards.

    Sequences are packed domain by domain (:mod:`var_core.corpus.packing`). Under a token limit, the same share
    of every domain's sequences is kept, at even distances from each other. The sequences of a domain are dealt
    over the micro-shards in contiguous blocks, so that each has its share of every domain. A shard holds equally many
    micro-shards, one after another; what is in these does not depend on the number of shards. Sequences are numbered
    in the order of the micro-shards and of the rows in them.

    Parameters
    ----------
    documents : Path
        A ``documents.parquet``.
    model_folder : Path
        Folder with the model's fast tokenizer.
    run : str
        ``{model}/{corpus}``.
    sequences : SequencesConfig
        Length of the sequences.
    shards : Shards
        Number of shards by split.
    micro_shards : MicroShards
        Number of micro-shards by split, a multiple of that of the shards.
    max_tokens : MaxTokens
        Limits on tokens by split.
    model_max_positions : int or None
        Longest sequence that the model takes; None if it has no limit.
    output : Path
        Folder for ``{split}-{shard:05d}.parquet``, ``vocabulary.parquet`` and ``manifest.json``.
    code : str
        Digest of the stage's code, for the provenance.

    Raises
    ------
    VarError
        If sequences are longer than the model takes, there is no fast tokenizer, or a split yields fewer
        sequences than it has micro-shards. No shard has been written then.
    """
    if model_max_positions is not None and sequences.length > model_max_positions:
        raise VarError(
            f"sequences.length: {sequences.length} is more than the {model_max_positions} positions that the"
            f" model of run {run} takes; lower it"
        )
    source = read_provenance(documents)
    tokenizer = DocumentTokenizer(model_folder)
    base = {
        "stage": "corpus",
        "run": run,
        "corpus": {"name": source["corpus"], "digest": source["digest"]},
        "tokenizer": tokenizer.digest,
        "sequence_length": sequences.length,
        "isolate_documents": sequences.isolate_documents,
        "config": {
            "sequences": sequences.model_dump(mode="json"),
            "shards": shards.model_dump(mode="json"),
            "micro_shards": micro_shards.model_dump(mode="json"),
            "max_tokens": max_tokens.model_dump(mode="json"),
        },
        "code": code,
    }
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".tokens-") as scratch:
        plans = [
            _plan(
                documents, split, tokenizer, sequences, micro_shards, max_tokens, source["corpus"], Path(scratch, split)
            )
            for split in CAPTURED_SPLITS
        ]
        _remove_old_shards(output)
        written = {plan.split: _write_split(plan, int(getattr(shards, plan.split)), output, base) for plan in plans}
    write_table(output / "vocabulary.parquet", vocabulary_table(tokenizer), base)
    write_json(output / "manifest.json", {**base, **_tokenizer_summary(tokenizer), "splits": written})


@dataclass(frozen=True)
class _Plan:
    """What of a split goes where."""

    split: CapturedSplit
    packed: dict[str, PackedDomain]
    kept: dict[str, NDArray[np.int64]]
    blocks: list[dict[str, range]]


def _plan(
    documents: Path,
    split: CapturedSplit,
    tokenizer: DocumentTokenizer,
    sequences: SequencesConfig,
    micro_shards: MicroShards,
    max_tokens: MaxTokens,
    corpus: str,
    scratch: Path,
) -> _Plan:
    """Tokenise and pack a split, and decide which sequences are kept and which micro-shard each goes to."""
    length, number = sequences.length, int(getattr(micro_shards, split))
    packed = pack(tokenised_documents(documents, split, tokenizer), length, scratch)
    available = {domain: lines.sequences for domain, lines in packed.items()}
    found = sum(available.values())
    if found < number:
        raise VarError(
            f"capture.micro_shards.{split}: {number}, but corpus {corpus} yields only {found} sequences of {length}"
            " tokens in this split; lower capture.micro_shards or sequences.length, or add documents"
        )
    limit = getattr(max_tokens, split)
    if limit is not None and limit // length < number:
        raise VarError(
            f"corpora.{corpus}.max_tokens.{split}: {limit} tokens are {limit // length} sequences of {length} for"
            f" {number} micro-shards; raise it, or lower capture.micro_shards or sequences.length"
        )
    counts = quotas(available, None if limit is None else limit // length)
    kept = {domain: evenly_spread(available[domain], count) for domain, count in counts.items()}
    return _Plan(split, packed, kept, deal(counts, number))


def _remove_old_shards(output: Path) -> None:
    """Remove shards of an earlier plan, which may have had more of them."""
    for path in output.iterdir():
        if _SHARD_NAME.fullmatch(path.name):
            path.unlink()


def _write_split(plan: _Plan, shards: int, output: Path, base: dict[str, Any]) -> dict[str, Any]:
    """Write all shards of a split and return its part of the manifest."""
    documents = _DocumentCounts(plan.packed)
    each = len(plan.blocks) // shards
    summaries, first = [], 0
    for shard in range(shards):
        blocks = plan.blocks[shard * each : (shard + 1) * each]
        content, micro_shards, start = ContentDigest(), [], first
        for micro_shard in blocks:
            own, size = ContentDigest(), _sequences(micro_shard)
            for rows in _rows(plan, micro_shard, first):
                content.add(rows)
                own.add(rows)
                documents.add(rows)
            micro_shards.append({"first": first, "sequences": size, "content": own.hexdigest()})
            first += size
        tokens = (first - start) * base["sequence_length"]
        provenance = {
            **base,
            "split": plan.split,
            "shard": shard,
            "tokens": tokens,
            "content": content.hexdigest(),
            "micro_shards": micro_shards,
        }
        path = output / f"{plan.split}-{shard:05d}.parquet"
        write_token_shard(path, base["sequence_length"], _all_rows(plan, blocks, start), provenance)
        summaries.append(
            {
                "file": path.name,
                "content": provenance["content"],
                "tokens": tokens,
                "sequences": first - start,
                "sequences_by_domain": {domain: sum(len(block[domain]) for block in blocks) for domain in plan.packed},
                "micro_shards": micro_shards,
            }
        )
    return _split_summary(plan, documents.by_domain, summaries)


class _DocumentCounts:
    """Documents of every domain that rows, in order, hold."""

    def __init__(self, domains: Iterable[str]) -> None:
        self.by_domain = dict.fromkeys(domains, 0)
        self._last: dict[str, int] = {}

    def add(self, rows: TokenRows) -> None:
        """Take in the next rows."""
        # Documents rise within a domain, so only the last one can come again.
        numbers = np.unique(rows.document)
        self.by_domain[rows.domain] += len(numbers) - int(numbers[0] == self._last.get(rows.domain))
        self._last[rows.domain] = int(numbers[-1])


def _sequences(block: Mapping[str, range]) -> int:
    return sum(len(each) for each in block.values())


def _all_rows(plan: _Plan, blocks: Sequence[Mapping[str, range]], first: int) -> Iterator[TokenRows]:
    """Yield the rows of several micro-shards; `first` is the number of their first sequence."""
    for block in blocks:
        yield from _rows(plan, block, first)
        first += _sequences(block)


def _rows(plan: _Plan, blocks: Mapping[str, range], first: int) -> Iterator[TokenRows]:
    """Yield a micro-shard's rows in pieces of bounded size; `first` is the number of its first sequence."""
    for domain, block in blocks.items():
        lines = plan.packed[domain]
        step = max(1, _CHUNK_TOKENS // lines.length)
        for start in range(block.start, block.stop, step):
            indices = plan.kept[domain][start : min(start + step, block.stop)]
            numbers = np.arange(first, first + len(indices), dtype=np.int32)
            first += len(indices)
            yield TokenRows(domain, numbers, *lines.rows(indices))


def _split_summary(plan: _Plan, documents: Mapping[str, int], shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Count what a split has, and what was dropped on the way."""
    domains = {
        domain: {
            "documents": documents[domain],
            "sequences": len(plan.kept[domain]),
            "tokens": len(plan.kept[domain]) * lines.length,
            "documents_read": len(lines.documents),
            "tokens_read": len(lines.tokens),
            "tokens_dropped_at_end": lines.dropped,
            "tokens_dropped_by_limit": (lines.sequences - len(plan.kept[domain])) * lines.length,
        }
        for domain, lines in plan.packed.items()
    }
    names = next(iter(domains.values()))
    totals = {name: sum(domain[name] for domain in domains.values()) for name in names}
    _logger.info(
        "%s: %d sequences, %d tokens of %d documents in %d shards",
        plan.split, totals["sequences"], totals["tokens"], totals["documents"], len(shards),
    )  # fmt: skip
    return {**totals, "domains": domains, "shards": shards}


def _tokenizer_summary(tokenizer: DocumentTokenizer) -> dict[str, Any]:
    return {
        "tokenizer": {
            "digest": tokenizer.digest,
            "vocabulary": len(tokenizer.tokenizer),
            "boundary": tokenizer.boundary,
            "boundary_id": tokenizer.boundary_id,
            "special_tokens": tokenizer.special_tokens(),
        }
    }
