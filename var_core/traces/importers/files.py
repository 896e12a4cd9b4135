"""Which files a corpus of recorded routing names, and which importer reads them."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from var_core.config.corpus import TraceCorpus
from var_core.corpus.files import matched_files
from var_core.traces.importers.esft import read_esft
from var_core.traces.importers.parquet import read_parquet
from var_core.traces.importers.recording import Recording, Shape
from var_core.traces.importers.route_csv import read_route_csv
from var_core.traces.importers.sglang import read_sglang
from var_core.traces.importers.vllm import read_vllm

Reader = Callable[[Sequence[tuple[Path, str]], str, Shape], Iterator[Recording]]


def recordings(name: str, corpus: TraceCorpus, shape: Shape) -> Iterator[tuple[float, Recording]]:
    """Yield all recordings of a corpus, domain by domain, each with the share of the files that has been read.

    Raises
    ------
    VarError
        If a pattern matches nothing, or a file is not what the format says.
    """
    readers: dict[str, Reader] = {
        "esft": read_esft,
        "route_csv": read_route_csv,
        "parquet": partial(read_parquet, recorded_model=corpus.recorded_model),
        "sglang": read_sglang,
        "vllm": read_vllm,
    }
    matched = matched_files(name, corpus.domains)
    for number, (domain, files) in enumerate(matched.items()):
        for recording in readers[corpus.format](files, domain, shape):
            yield (number + recording.share_read) / len(matched), recording
