"""Made-up decisions and the files that engines would write of them, for tests of the importers."""

import gzip
import io
import tarfile

import numpy as np
import pandas as pd
import torch

EXPERTS, TOP_K, LAYERS = 16, 3, 2


def decisions(tokens, seed=0, layers=LAYERS, experts=EXPERTS, top_k=TOP_K):
    """Distinct experts and their weights, in no order; shape (tokens, layers, k)."""
    random = np.random.default_rng(seed)
    chosen = random.random((tokens, layers, experts)).argsort(-1)[..., :top_k]
    return chosen, random.random(chosen.shape).astype(np.float32).round(4)


def esft_lines(sequences, layer):
    """Text of one layer's log: ids, two tabs, weights."""
    lines = []
    for experts, weights in sequences:
        ids = "\t".join(map(str, experts[:, layer].ravel()))
        lines.append(ids + "\t\t" + "\t".join(f"{weight:.4f}" for weight in weights[:, layer].ravel()))
    return "".join(f"{line}\n" for line in lines)


def write_esft(path, logs, first=1):
    """An archive of one log a layer, whose numbers begin at `first`."""
    with tarfile.open(path, "w:xz") as archive:
        for layer, text in enumerate(logs):
            info = tarfile.TarInfo(f"somewhere/expert_weights_{layer + first}.txt")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))


def route_rows(prefill, decode, turn=0):
    """Rows of a route CSV: prefill layer by layer, its last layer only for the last token; decode step by step."""
    rows = []
    (experts, weights), tokens = prefill, len(prefill[0])
    for layer in range(experts.shape[1]):
        for step in range(tokens):
            if layer < experts.shape[1] - 1 or step == tokens - 1:
                rows += _slots(turn, 0, step, step, layer, experts, weights)
    experts, weights = decode
    for step in range(len(experts)):
        for layer in range(experts.shape[1]):
            rows += _slots(turn, 1, tokens + step, step, layer, experts, weights)
    return rows


def _slots(turn, phase, step, token, layer, experts, weights):
    pairs = zip(experts[token, layer].tolist(), weights[token, layer].tolist(), strict=True)
    return [f"{turn},{phase},{step},{layer},{slot},{e},{w:.4f},0,1" for slot, (e, w) in enumerate(pairs)]


def write_route_csv(path, rows, header=("# route_trace v1", "# n_layer=2 n_expert=16 n_expert_used=3")):
    columns = "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"
    with gzip.open(path, "wt") as stream:
        stream.writelines(f"{line}\n" for line in (*header, columns, *rows))


def decision_rows(documents, **more):
    """Rows of the project's own schema; `documents` maps names to (experts, weights, token ids)."""
    rows = []
    for name, (experts, weights, token_ids) in documents.items():
        for position in range(len(experts)):
            for layer in range(experts.shape[1]):
                row = {"document": name, "position": position, "layer": layer, **more}
                row["experts"] = experts[position, layer].tolist()
                row["weights"] = weights[position, layer].tolist()
                row["token_id"] = int(token_ids[position])
                rows.append(row)
    return pd.DataFrame(rows)


def sglang_dump(passes, physical=None, slots=8):
    """A per_token dump; `passes` are (mode, lengths of prompts or None, token ids, experts [T, L, k])."""
    records = []
    for number, (mode, lengths, token_ids, experts) in enumerate(passes):
        topk = torch.full((experts.shape[1], len(token_ids), slots), -1, dtype=torch.int32)
        topk[..., : experts.shape[2]] = torch.from_numpy(experts.transpose(1, 0, 2))
        records.append(
            {
                "forward_pass_id": number, "rank": 0, "gatherer_key": "primary", "input_ids": list(token_ids),
                "positions": [0] * len(token_ids), "extend_seq_lens": lengths, "forward_mode": mode,
                "topk_ids_of_layer": topk, "misc_objects": [],
            }
        )  # fmt: skip
    layers = passes[0][3].shape[1]
    table = torch.arange(EXPERTS).repeat(layers, 1) if physical is None else physical
    return {"records": records, "last_physical_to_logical_map": table}
