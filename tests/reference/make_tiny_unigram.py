"""Make tests/convert/tiny_unigram.json: a small Unigram vocabulary and normaliser table, like XLM-RoBERTa's.

    python tests/reference/make_tiny_unigram.py    # needs the package sentencepiece

SentencePiece trains the vocabulary on the texts of tests/convert/encoder_texts.py and compiles the table ("precompiled
charsmap") from rules like those of its own `nmt_nfkc`: NFKC of each character that the texts hold, the compositions of each,
white space to a space, control characters to nothing. Ids are XLM-RoBERTa's: <s>, <pad>, </s>, <unk>, the pieces, <mask>.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import tempfile
import unicodedata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.convert.encoder_texts import PAIRS, TEXTS

TARGET = Path(__file__).parents[1] / "convert" / "tiny_unigram.json"
PIECES = 600
_SPACES = [*"\t\n\r\u00a0\u1680\u2028\u2029\u200b\u200e\u3000\u2581\ufeff\ufffd"]
_DELETED = [chr(code) for code in (*range(1, 9), 11, 127)]


def main() -> None:
    """Write the file."""
    import sentencepiece

    texts = [*TEXTS.values(), *(text for pair in PAIRS.values() for text in pair)]
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"
        rules.write_text("".join(_rules(texts)), encoding="utf-8")
        model = io.BytesIO()
        lines = [part for text in texts for part in (text, *text.split(". ")) if part.strip()]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([line.replace("\n", " ") for line in lines]),
            model_writer=model,
            model_type="unigram",
            vocab_size=PIECES,
            # Some letters must stay unknown.
            character_coverage=0.99,
            normalization_rule_tsv=str(rules),
            hard_vocab_limit=False,
            num_threads=1,
        )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [[processor.id_to_piece(i), processor.get_score(i)] for i in range(3, processor.get_piece_size())]
    special = [["<s>", 0.0], ["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0]]
    vocab = [*special, *((piece, round(score, 6)) for piece, score in pieces), ["<mask>", 0.0]]
    charsmap = _charsmap(model.getvalue())
    content = {"precompiled_charsmap": base64.b64encode(charsmap).decode(), "vocab": vocab}
    TARGET.write_text(json.dumps(content, ensure_ascii=False, indent=None, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{TARGET.name}: {len(vocab)} pieces, table of {len(charsmap)} bytes")


def _rules(texts: list[str]) -> list[str]:
    """Return SentencePiece's TSV: code points of the source in hex, a tab, those of the target."""
    found = dict.fromkeys(_SPACES, " ") | dict.fromkeys(_DELETED, "")
    for letter in {letter for text in texts for letter in text} - {" "}:
        folded = unicodedata.normalize("NFKC", letter)
        if letter not in found and folded != letter:
            found[letter] = folded
        decomposed = unicodedata.normalize("NFD", letter)
        # SentencePiece composes, too: é of two characters becomes é of one. That goes for the half-composed as well.
        for split in range(1, len(decomposed)):
            half = unicodedata.normalize("NFC", decomposed[: split + 1])
            for source in {decomposed[: split + 1], unicodedata.normalize("NFC", decomposed[:split]) + decomposed[split]}:
                if source != half:
                    found[source] = half

    def spell(text: str) -> str:
        return " ".join(f"{ord(letter):X}" for letter in text)

    return [f"{spell(source)}\t{spell(target)}\n" for source, target in sorted(found.items())]


def _charsmap(model: bytes) -> bytes:
    """Find ModelProto.normalizer_spec (field 3) and in it precompiled_charsmap (field 2): protocol buffers' wire format."""
    return _field(_field(model, 3), 2)


def _field(message: bytes, wanted: int) -> bytes:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            _, at = _varint(message, at)
        elif key & 7 == 5:
            at += 4
        elif key & 7 == 1:
            at += 8
        else:
            size, at = _varint(message, at)
            if key >> 3 == wanted:
                return message[at : at + size]
            at += size
    raise ValueError(f"no field {wanted}")


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, at, shift = value | (byte & 127) << shift, at + 1, shift + 7
        if byte < 128:
            return value, at


if __name__ == "__main__":
    main()
