"""Settings of corpora and of packing."""

from typing import Annotated, Literal, get_args

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator

from var_core.config.base import COMMIT_PATTERN, Block, Distinct, HubName, pinned

Domain = Literal["reference", "docstrings", "code"]
SplitName = Literal["train", "capture", "calibration", "tuning", "heldout"]
CapturedSplit = Literal["capture", "calibration", "tuning", "heldout"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
CAPTURED_SPLITS: tuple[CapturedSplit, ...] = get_args(CapturedSplit)
COUNTED_SPLITS: tuple[CapturedSplit, ...] = ("capture", "heldout")
"""Splits whose statistics are merged and analysed; of the others, only the decisions one by one are of use."""


class Splits(Block):
    """Shares of the documents by use; they sum to 1. A document is in one split, by a hash of its group's name."""

    train: float = Field(0.35, ge=0, le=1)
    """share that trains the demo model; 0 for corpora that no model of this config is trained on"""
    capture: float = Field(0.2, gt=0, le=1)
    """share whose routing is counted: tables and statistics are fitted on it"""
    calibration: float = Field(0.09, gt=0, le=1)
    """share on which a policy's tables are compared with the router: what the fast path takes is chosen on it"""
    tuning: float = Field(0.1, gt=0, le=1)
    """share on which a policy's settings are compared with each other"""
    heldout: float = Field(0.26, gt=0, le=1)
    """share that nothing is fitted, calibrated or tuned on: predictions and policies are scored on it"""

    @model_validator(mode="after")
    def _sum_to_one(self) -> "Splits":
        shares = {split: float(getattr(self, split)) for split in SPLITS}
        total = sum(shares.values())
        if abs(total - 1) > 1e-9:
            said = " + ".join(f"{split} {share:g}" for split, share in shares.items())
            raise ValueError(f"{said} make {total:g}, not 1; give all {len(shares)}")
        return self


class MaxTokens(Block):
    """Upper limits on the tokens packed from each split; null for no limit."""

    capture: PositiveInt | None = None
    """tokens whose routing is counted"""
    calibration: PositiveInt | None = None
    """tokens that a policy's tables are compared with the router on"""
    tuning: PositiveInt | None = None
    """tokens that a policy's settings are compared on"""
    heldout: PositiveInt | None = None
    """tokens that predictions are scored on"""


class CorpusBase(Block):
    """What all corpora have."""

    splits: Splits = Splits(train=0.0, capture=0.5, calibration=0.15, tuning=0.1, heldout=0.25)
    """shares of the documents by use"""
    max_tokens: MaxTokens = MaxTokens()
    """upper limits on packed tokens, taken in equal proportion from every domain"""


class PythonStdlibCorpus(CorpusBase):
    """Text that every Python installation carries; needs no download."""

    source: Literal["python-stdlib"]
    """the kind of source"""
    splits: Splits = Splits()
    """shares of the documents by use"""
    domains: Annotated[tuple[Domain, ...], Distinct] = Field(("reference", "docstrings", "code"), min_length=1)
    """language reference, docstrings, and code without its docstrings"""


class FilesCorpus(CorpusBase):
    """Local text, JSONL or Parquet files."""

    source: Literal["files"]
    """the kind of source"""
    format: Literal["text", "jsonl", "parquet"]
    """text: a file is a document; jsonl and parquet: a row is a document; text and jsonl may be compressed (.gz)"""
    domains: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(min_length=1)
    """domain name -> paths or glob patterns, relative to the working folder; or ``s3://bucket/key``, one object each"""
    text_field: str = "text"
    """jsonl and parquet: the field that holds the text"""
    name_field: str | None = None
    """jsonl and parquet: the field that names a document; null: file name and row number"""


class HubCorpus(CorpusBase):
    """A data set from the Hugging Face hub, streamed at a pinned revision."""

    source: Literal["hub"]
    """the kind of source"""
    dataset: HubName
    """repository of the data set, for example ``allenai/c4``"""
    revision: str = Field(json_schema_extra={"pattern": COMMIT_PATTERN})
    """commit of the data set's repository, all 40 digits (a branch name moves, and results with it)"""
    name: str | None = None
    """the data set's configuration, for example ``en``"""
    split: str = "train"
    """the data set's own split to read from"""
    max_documents: PositiveInt
    """stop after this many documents"""
    text_field: str = "text"
    """the field that holds the text"""
    name_field: str | None = None
    """the field that names a document; null: row number"""
    domain_field: str | None = None
    """the field that names the domain (``meta.redpajama_set_name`` reaches into a record); null: one domain"""

    @field_validator("revision")
    @classmethod
    def _is_pinned(cls, revision: str, info: ValidationInfo) -> str:
        return pinned(revision, f"https://huggingface.co/datasets/{info.data.get('dataset', 'OWNER/NAME')}")


CorpusConfig = Annotated[PythonStdlibCorpus | FilesCorpus | HubCorpus, Field(discriminator="source")]
"""Corpora of text."""

TraceFormat = Literal["sglang", "vllm", "route_csv", "esft", "token_counts", "parquet"]


class TraceCorpus(Block):
    """Routing that an engine or somebody else recorded. Goes with a model of the same source."""

    source: Literal["trace"]
    """the kind of source"""
    format: TraceFormat
    """who wrote the files and how; docs/how-to/recorded-routing.md has a section for each"""
    domains: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(min_length=1)
    """domain name -> paths or glob patterns, relative to the working folder; where a file has a column ``domain``, its
    rows go by that"""
    heldout: float = Field(0.4, ge=0, lt=1)
    """share of the recorded sequences, by a hash of their names, that nothing is fitted on; 0: all are counted"""
    recorded_model: str | None = None
    """token_counts and parquet: read only rows with this name in column ``model``; null: there is no such column"""


AnyCorpusConfig = Annotated[PythonStdlibCorpus | FilesCorpus | HubCorpus | TraceCorpus, Field(discriminator="source")]


class SequencesConfig(Block):
    """How documents become sequences: fixed length, no padding, documents one after another."""

    length: PositiveInt = Field(256, ge=8)
    """tokens a sequence; at most what the model was made for"""
    isolate_documents: bool = True
    """positions restart and attention stops at a document's start; false: only a boundary token separates them"""
