"""The page of supported models, written from what the tiny models of all families did.

``PYTHONPATH=tests python -m moe_families.page docs/reference/supported-models.md``; without a file, it only prints
the matrix with the measured figures.
"""

import functools
import importlib.metadata
import sys
from pathlib import Path

from moe_families.configs import FAMILIES
from moe_families.matrix import Row, examine
from var_core.files import write_text

EXACT = 1e-5
"""Largest relative error that counts as rounding in float32."""

NOTES = {
    "deepseek_v4": "the first layers route by token id (hash); they are sites like the others",
    "diffusion_gemma": "its recorded router_logits are probabilities already; experts have a learned scale each",
    "doge": "an expert is a pair of keys; the choice is computed again as its module does. In a forward pass over many "
    "tokens its module mixes the logits of different tokens; what is captured is what it computes",
    "ernie4_5_vl_moe": 'text does not reach the experts for images: `exclude_sites: ["*.vision_moe.experts"]`',
    "gemma4": "its recorded router_logits are probabilities already; experts have a learned scale each",
    "hunyuan_v1_moe": "k may differ from layer to layer (here 2, 1, 2, 3); with k = 1 the only weight is always 1, so "
    "that its scoring is assumed",
    "inkling": "weights are normalised together with those of the shared experts",
    "jetmoe": "the attention's projections are routed like the MLP: two sites a block",
    "llama4": "weights multiply the experts' input",
    "longcat_flash": "8 experts and 4 identity outcomes, E = 12",
    "phimoe": "each slot's weight is a softmax of its own over the logits near the largest: no single scoring explains "
    "them; softmax is assumed",
    "switch_transformers": "encoder and decoder; a token that finds no room at its expert has an empty slot",
    "zaya": "8 experts and a skip, E = 9",
}
"""What a user of a family should know besides."""


@functools.cache
def rows() -> tuple[Row, ...]:
    """Examine all families."""
    return tuple(examine(family) for family in FAMILIES)


def render(results: tuple[Row, ...]) -> str:
    """Write the page."""
    captured = [row for row in results if row.refused is None]
    contract = [row for row in captured if row.reader == "contract"]
    forced = [row for row in captured if row.unforceable is None]
    fitted = [row for row in captured if row.basis == "fitted"]
    apart = [row for row in captured if row.isolates]
    wrapped = [row for row in captured if row.wrapped]
    others = [row for row in captured if row.reader != "contract"]
    version = importlib.metadata.version("transformers")
    parts = [
        "<!-- Written by `make docs` from a run over tiny models of all families (tests/moe_families). -->",
        "# Supported models",
        f"All {len(results)} families of transformers {version} with a router and experts, each tried on a tiny model "
        "with random weights. A family that is not listed works too if it keeps the contract below: nothing goes by "
        "a list of names.",
        "| | families |\n|---|---|\n"
        f"| captured | {len(captured)} of {len(results)} |\n"
        f"| of these by contract, without code of their own | {len(contract)} |\n"
        f"| of these with an adapter | {len(others)} ({', '.join(row.family for row in others)}) |\n"
        f"| a decision can be forced | {len(forced)} |\n"
        f"| all layers' scoring fitted, not assumed | {len(fitted)} |\n"
        f"| packed documents can be kept apart by positions | {len(apart)} |\n"
        f"| also tried inside the family's model for images or sound: text decides the same | {len(wrapped)} |\n"
        f"| refused | {len(results) - len(captured)} |",
        _HOW_TO_READ,
        "## Families",
        "\n".join([_HEAD, *(_line(row) for row in results if row.refused is None)]),
        "## Refused",
        "\n".join(f"* **{row.family}**: {row.refused}" for row in results if row.refused is not None),
        "## Not forced",
        "\n".join(f"* **{row.family}**: {row.unforceable}" for row in captured if row.unforceable is not None),
    ]
    return "\n\n".join(parts) + "\n"


_HOW_TO_READ = f"""## How to read the table

The contract: a module `experts(hidden, indices, weights)` beside a router that returns logits. What is captured is what
the experts are given, not a top k of the logits.

* **sites**: MoE layers of the tiny model; as many as its configuration asks for. Sites are named by module path. Layers
  in a part of a model whose main input is not token ids (a vision tower) are left out.
* **E**, **k**: outcomes that a router can choose, and slots. E counts identity and skip outcomes.
* **scoring**: the function of the logits that the weights follow, up to a factor a token and, if need be, a factor an
  expert. *assumed*: the weights do not tell, and softmax is taken. A control with shuffled logits is refused for every
  family.
* **top k**: whether the top k of the logits are the selection. Where not, a bias or groups take part in the choice.
* **exact**: whether each layer's output is the weighted sum of the recorded experts, run one at a time, to a relative
  error below {EXACT:.0e} in float32.
* **forced**: whether a decision can be put in the router's place. Shown on the whole model: its experts are permuted,
  the permuted decisions forced, and the output stays the same; without forcing it changes.
* **apart**: whether positions that restart keep packed documents from reading each other
  (`sequences.isolate_documents`). Where not, set it to false; a boundary token then separates documents.

On attaching to a model, capture makes the same checks on a few tokens and says which layer fails them. Models in
MXFP4 are dequantised by the workflow (from Python, load them with `Mxfp4Config(dequantize=True)`); blocks that
kernels replace (`use_kernels=True`) and models that were compiled before attaching make no decision that can be seen,
and are refused. An encoder-decoder is given the same tokens on both sides."""

_HEAD = (
    "| family | configuration | sites | E | k | scoring | top k | exact | forced | apart | notes |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def _line(row: Row) -> str:
    scoring = row.scoring if row.basis == "fitted" else f"{row.scoring} ({row.basis})"
    cells = [
        row.family,
        f"`{FAMILIES[row.family][0]}`",
        str(row.sites),
        row.experts,
        row.top_k,
        scoring,
        _yes(row.top_k_of_logits),
        _yes(row.recombination < EXACT),
        _yes(row.unforceable is None and row.permuted < EXACT < row.unforced),
        _yes(row.isolates),
        NOTES.get(row.family, ""),
    ]
    return f"| {' | '.join(cells)} |"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def matrix(results: tuple[Row, ...]) -> str:
    """Write the measured figures as plain text, a line a family, and the counts; these may differ between machines."""
    lines = [
        f"{'family':23}{'sites':>5}{'E':>4}{'k':>7}  {'scoring':23}{'recombined':>11}  {'forced':>8}{'unforced':>9}"
    ]
    for row in results:
        if row.refused is not None:
            lines.append(f"{row.family:23}refused")
            continue
        scoring = f"{row.scoring} {row.basis}"
        forced = f"{row.permuted:8.0e}{row.unforced:9.1g}" if row.unforceable is None else f"{'no':>8}"
        layers = f"{row.sites:5}{row.experts:>4}{row.top_k:>7}"
        lines.append(f"{row.family:23}{layers}  {scoring:23}{row.recombination:11.1e}  {forced}")
    captured = [row for row in results if row.refused is None]
    exact = sum(row.recombination < EXACT for row in captured)
    forced_count = sum(row.unforceable is None and row.permuted < EXACT < row.unforced for row in captured)
    lines.append(f"{len(captured)} of {len(results)} captured, {exact} exact, {forced_count} forced")
    return "\n".join(lines)


if __name__ == "__main__":
    print(matrix(rows()))
    if len(sys.argv) > 1:
        write_text(Path(sys.argv[1]), render(rows()))
