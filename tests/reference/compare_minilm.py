"""Compare our converted all-MiniLM-L6-v2, computed by llama.cpp, with sentence-transformers.

    uv run --group reference python tests/reference/compare_minilm.py CHECKPOINT [--write tests/reference/minilm_rows.npz]

CHECKPOINT is the model's folder (config.json, model.safetensors, modules.json, ...). Torch is needed only here: `--write`
stores the rows of sentence-transformers for a few texts, so that the ordinary tests compare without it.

Prints one line for each text: its tokens, whether llama.cpp cut it into the same ids, and for each type the cosine of the
vector that llama.cpp makes of the text; then the smallest cosines when llama.cpp is given the reference's ids, which is the
converter's own share. The exit status is 1 when one falls below LEAST, except for the texts in EXCEPTIONS.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from edgeembed.engine.llama.library import send_log_to
from edgeembed_convert import ConversionOptions, convert_checkpoint
from tests.convert.llama_vectors import cosine, open_llama

LEAST = {"F32": 0.9999, "F16": 0.9999, "Q8_0": 0.999}
LIMIT = 512  # positions that the model has; sentence-transformers would cut at 256 unless told

_PROSE = (
    "The river rises in the hills north of the town, runs past two mills that have not ground any corn since the war, "
    "and reaches the sea after forty miles of meadows, willows and slow bends. "
)
_CODE = """def binary_search(items, wanted):
    low, high = 0, len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        if items[middle] == wanted:
            return middle
        low, high = (middle + 1, high) if items[middle] < wanted else (low, middle - 1)
    raise KeyError(f"{wanted!r} is not here")
"""

# Kind of text -> text. Those that STORED names are written to the file of rows.
TEXTS = {
    "one letter": "a",
    "one word": "river",
    "question": "What is the capital of China?",
    "sentence": "Gravity is a force that attracts two bodies towards each other.",
    "capitals": "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "accents": "Crème brûlée, naïve café, Ångström, Škoda, Łódź",
    "German": "Der Fluß entspringt in den Hügeln nördlich der Stadt und mündet nach vierzig Meilen ins Meer.",
    "French": "Où est passé l'été ? Les élèves rêvaient déjà de neige à Noël.",
    "Spanish": "¿Dónde está la biblioteca? El niño comió piñas y bebió café.",
    "Turkish": "İstanbul'da ılık bir akşam, ışıklar söndü.",
    "Vietnamese": "Tiếng Việt có nhiều dấu thanh khác nhau.",
    "Russian": "Река берёт начало в холмах к северу от города.",
    "Greek": "Ο ποταμός πηγάζει από τους λόφους βόρεια της πόλης.",
    "Arabic": "ينبع النهر من التلال شمال المدينة.",
    "Hebrew": "הנהר נובע בגבעות שמצפון לעיר.",
    "Hindi": "नदी शहर के उत्तर की पहाड़ियों से निकलती है।",
    "Thai": "แม่น้ำไหลจากเนินเขาทางเหนือของเมือง",
    "Chinese": "河流发源于城北的山丘。",
    "Japanese": "川は町の北の丘から流れ出し、カタカナも混ざります。",
    "Korean": "강은 도시 북쪽의 언덕에서 시작됩니다.",
    "emoji": "Great work 🎉🎉 see you at the café 👩‍👩‍👧‍👦 🇩🇪 👍🏽 :-)",
    "symbols": "E = mc², ∑ xᵢ ≤ ∞; 50 € – “quoted” … #tag @user 100% (a+b)^2 ~ <b>",
    "web address": "See https://example.com/a/b?c=d&e=%20f#g or mail someone@example.com.",
    "white space": "  tabs\tand\nnew lines\r\n and\u00a0hard\u3000spaces\u200b and a zero-width one  ",
    "special names": "The token [MASK] is not [CLS].",
    "code": _CODE,
    "64 tokens": _PROSE + "Nobody fishes there now, and the last ferry was sold for its timber.",
    "128 tokens": _PROSE * 3,
    "256 tokens": _PROSE * 6,
    "500 tokens": _PROSE * 12 + "It is a quiet river.",
    "500, mixed": (_CODE + "Der Fluß entspringt in den Hügeln. 河流发源于城北的山丘。 🎉 ") * 4,
}
# Texts whose vectors differ for a reason that is not the conversion.
EXCEPTIONS = {
    "special names": "on purpose: a special token's name in a user's text stays text",
    "Thai": "[UNK] alone, and Q8_0 only: weights alone give 0.9996, the rest is ggml rounding activations too",
}
STORED = [kind for kind in TEXTS if kind not in EXCEPTIONS and kind not in ("256 tokens", "500, mixed")]


def compare(
    checkpoint: Path,
    expected: Mapping[str, Any],
    expected_ids: Mapping[str, list[int]],
    *,
    texts: Mapping[str, str] = TEXTS,
    least: Mapping[str, float] = LEAST,
    exceptions: Mapping[str, str] = EXCEPTIONS,
) -> bool:
    """Convert a checkpoint, print a table, and return whether no cosine is below the least of its type.

    expected: rows of the reference, expected_ids: its token ids. exceptions: texts that do not count, with the reason.
    """
    send_log_to(lambda _line: None, verbose=False)
    cosines: dict[str, dict[str, float]] = {}
    by_ids: dict[str, dict[str, float]] = {}
    ids: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in least:
            file = convert_checkpoint(checkpoint, Path(folder) / f"{name}.gguf", ConversionOptions(quantization=name)).path
            with open_llama(file, LIMIT) as llama:
                ids = {kind: llama.tokenize(text) for kind, text in texts.items()}
                cosines[name] = {kind: cosine(llama.embed_ids(ids[kind]), expected[kind]) for kind in texts}
                by_ids[name] = {kind: cosine(llama.embed_ids(expected_ids[kind]), expected[kind]) for kind in texts}

    print(f"{'text':<16}{'tokens':>7} {'ids':<7}" + "".join(f"{name:>11}" for name in least))
    for kind in texts:
        same = "same" if ids[kind] == expected_ids[kind] else "DIFFER"
        print(
            f"{kind:<16}{len(expected_ids[kind]):>7} {same:<7}" + "".join(f"{cosines[name][kind]:>11.7f}" for name in least)
        )
    found = {
        name: min(value for kind, value in values.items() if kind not in exceptions) for name, values in cosines.items()
    }
    found_by_ids = {name: min(values.values()) for name, values in by_ids.items()}
    for label, values in (("min, but for the known", found), ("min, reference's ids", found_by_ids)):
        print(f"{label:<31}" + "".join(f"{values[name]:>11.7f}" for name in least))
    for kind, reason in exceptions.items():
        print(f"known: {kind}: {reason}")
    # Rounding is judged on texts alone; the exact types also on the reference's ids, with no exception.
    return all(found[name] >= bound for name, bound in least.items()) and all(
        found_by_ids[name] >= least[name] for name in ("F32", "F16") if name in least
    )


def main() -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder of the checkpoint")
    parser.add_argument("--write", type=Path, metavar="FILE", help="store sentence-transformers' rows of a few texts")
    options = parser.parse_args()

    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(options.checkpoint), device="cpu")
    model.max_seq_length = LIMIT
    expected = {kind: np.asarray(model.encode([text])[0], dtype=np.float32) for kind, text in TEXTS.items()}
    expected_ids = {kind: model.tokenizer(text)["input_ids"] for kind, text in TEXTS.items()}
    assert max(map(len, expected_ids.values())) <= LIMIT
    good = compare(options.checkpoint, expected, expected_ids)
    if options.write:
        np.savez_compressed(
            options.write,
            kinds=np.array(STORED),
            texts=np.array([TEXTS[kind] for kind in STORED]),
            tokens=np.array([len(expected_ids[kind]) for kind in STORED], dtype=np.int32),
            rows=np.stack([expected[kind] for kind in STORED]),
        )
        print(f"wrote {options.write}: {len(STORED)} rows")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
