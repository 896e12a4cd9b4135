"""The vocabulary of a recording: a tokenizer's, or the bare numbers of the token ids."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from var_core.config.models import TraceModel
from var_core.corpus.schema import VOCABULARY
from var_core.corpus.tokenise import DocumentTokenizer
from var_core.corpus.vocabulary import vocabulary_table
from var_core.errors import VarError


def recorded_vocabulary(model: TraceModel, token_ids: Sequence[int], size: int) -> pa.Table:
    """Return the table of token ids and their texts.

    Parameters
    ----------
    model : TraceModel
        May name the folder of a tokenizer.
    token_ids : sequence of int
        Ids to list where there is no tokenizer.
    size : int
        One more than the largest id that was recorded; 0 where none were.

    Raises
    ------
    VarError
        If an id is outside the tokenizer, or there is no tokenizer in the folder.
    """
    if model.tokenizer is None:
        columns = [
            pa.array(token_ids, pa.int32()),
            pa.array([str(token_id) for token_id in token_ids], pa.string()),
            pa.array([False] * len(token_ids), pa.bool_()),
        ]
        return pa.Table.from_arrays(columns, schema=VOCABULARY)
    table = vocabulary_table(DocumentTokenizer(Path(model.tokenizer).expanduser()))
    known = table["token_id"][-1].as_py() + 1
    if size > known:
        raise VarError(f"models.<name>.tokenizer: {model.tokenizer} has {known} token ids, but {size - 1} was recorded")
    return table
