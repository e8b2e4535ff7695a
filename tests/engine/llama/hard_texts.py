"""Texts that tokenizers read differently: long words, many scripts, rare characters."""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Iterator

_RANDOM = random.Random(17)
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~"
_BASE64 = base64.b64encode(_RANDOM.randbytes(22_500)).decode()

HARD_TEXTS = {
    "100 letters": "a" * 100,
    "101 letters": "a" * 101,
    "base64": f"the attachment is {_BASE64.replace('/', 'A').replace('+', 'B')} as sent",
    "data URI": f'<img alt="a red dot" src="data:image/png;base64,{_BASE64[:3000]}">',
    "ssh key": f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{_BASE64[:400]} user@host",
    "SHA-512 sums": "\n".join(
        f"{hashlib.sha512(name.encode()).hexdigest()}  {name}.tar.gz" for name in ("one", "two", "three")
    ),
    "minified code": "".join(f"function f{n}(a,b){{return a.x{n}+b[{n}]||{'v' * n}}};" for n in range(90, 110)),
    "a long path": "/usr/share/" + "very" * 40 + "/long.txt",
    "German": "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen " * 2 + "ä" * 99 + " " + "ß" * 101,
    "Turkish": "İstanbul'da IŞIK ve ılık su, İİİ " + "İ" * 51 + " " + "İ" * 101,
    "Korean": "안녕하세요 세계 " + "한국어" * 20,
    "Chinese": "我来到北京清华大学，" + "中国" * 60,
    "Japanese": "東京都に住んでいます。ﾃｽﾄ パーティー が" + "カ" * 101,
    "Hindi": "हिन्दी में पाठ, निकलती है " + "नि" * 60,
    "Thai": "ภาษาไทยไม่มีช่องว่าง" * 6,
    "Arabic": "السَّلَامُ عَلَيْكُمْ ورحمة الله",
    "Greek": "ΟΔΥΣΣΕΥΣ ὀδυσσεύς ΐ",
    "emoji": "🙂👩‍👩‍👧‍👦 ok 🏳️‍🌈 ✔︎ ❤️",
    "spaces": "a\u00a0b\u2003c\u3000d\u200be\ufefff\u2028g\x85h\x0bi\x0cj\tk",
    "marks": "e\u0301\u0327 " + "a" + "\u0300\u0316" * 15 + " x\u0338",
    "names of tokens": "[CLS] [SEP] [UNK] ##ing </s> <|endoftext|> <pad> a\u2581b \u2581the",
    "control characters": "a\x00b\x01c \x7f d\x1be",
}


def fuzzed_texts(count: int, seed: int = 1) -> Iterator[str]:
    """Yield texts of words, characters of all kinds, and runs about as long as a word may be."""
    chance = random.Random(seed)
    for _ in range(count):
        yield "".join(_fragment(chance) + chance.choice(["", " ", "", "\n"]) for _ in range(chance.randrange(1, 9)))


def _fragment(chance: random.Random) -> str:
    length = chance.choice([1, 2, 3, 8, 30, 99, 100, 101, 102, 200])
    match chance.randrange(8):
        case 0:
            return "".join(chance.choices(_LETTERS, k=length))
        case 1:
            planes = [(0x20, 0x250), (0x250, 0x3000), (0x3000, 0xD800), (0xE000, 0x11000), (0x11000, 0x20000)]
            return "".join(chr(chance.randrange(*chance.choice(planes))) for _ in range(chance.randrange(1, 8)))
        case 2:
            return chance.choice(
                ["  ", "\t", "\u00a0", "\u200b", "\u0301", "\u0327\u0301", "İ", "ﬁ", "…", "##a", "[CLS]", "▁"]
            )
        case 3:
            return "".join(chr(chance.randrange(0xAC00, 0xD7A4)) for _ in range(chance.choice([1, 5, 33, 34, 50, 51])))
        case 4:
            return "".join(chr(chance.randrange(0x4E00, 0x9FFF)) for _ in range(chance.choice([1, 5, 101])))
        case 5:
            return "".join(chance.choices(_PUNCTUATION, k=chance.choice([1, 2, 101])))
        case 6:
            return "".join(chance.choices("éèüöÀÇñåßΣς", k=length))
        case _:
            return " ".join(chance.choices(["the", "quick", "brown", "fox", "don't", "3.14", "C++", "naïve"], k=5))
