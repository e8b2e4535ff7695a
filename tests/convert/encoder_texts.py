"""Texts and pairs for the comparison of converted encoders with their reference: scripts, lengths, special cases."""

from __future__ import annotations

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
"""

TEXTS = {
    "letter": "a",
    "question": "What is the capital of China?",
    "capitals": "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG",
    "accents": "Crème brûlée, naïve café, Ångström, Škoda, Łódź",
    "German": "Der Fluß entspringt in den Hügeln nördlich der Stadt.",
    "Turkish": "İstanbul'da ılık bir akşam, ışıklar söndü.",
    "Vietnamese": "Tiếng Việt có nhiều dấu thanh khác nhau.",
    "Russian": "Река берёт начало в холмах к северу от города.",
    "Greek": "Ο ποταμός πηγάζει από τους λόφους βόρεια της πόλης.",
    "Arabic": "ينبع النهر من التلال شمال المدينة، والماءُ عذبٌ.",
    "Hebrew": "הנהר נובע בגבעות שמצפון לעיר.",
    "Hindi": "नदी शहर के उत्तर की पहाड़ियों से निकलती है।",
    "Thai": "แม่น้ำไหลจากเนินเขาทางเหนือของเมือง",
    "Chinese": "河流发源于城北的山丘。",
    "Japanese": "川は町の北の丘から流れ出し、カタカナも混ざります。",
    "Korean": "강은 도시 북쪽의 언덕에서 시작됩니다.",
    "emoji": "Great work 🎉🎉 at the café 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ :-)",
    "symbols": "E = mc², ∑ xᵢ ≤ ∞; 50 € – “quoted” … ½ ﬁne ＡＢＣ ① ™️ #tag",
    "white space": "  tabs\tand\nnew lines\r\n and\u00a0hard\u3000spaces\u200b and a zero-width one ▁ ",
    "special names": "No <s>, </s>, <unk>, <mask> or <pad>, no [CLS], [SEP], [MASK], [PAD] or [UNK], no <|endoftext|>.",
    "code": _CODE,
    "long": _PROSE * 4,
    "long, mixed": (_CODE + "Der Fluß entspringt in den Hügeln. 河流发源于城北的山丘。 🎉 강은 도시 북쪽. ") * 2,
}

PAIRS = {
    "answer": ("What is the capital of China?", "The capital of China is Beijing."),
    "no answer": ("What is the capital of China?", "Gravity is a force that attracts two bodies towards each other."),
    "scripts": ("강은 어디에서 시작됩니까? नदी", "河流发源于城北的山丘。 ينبع النهر من التلال 🎉"),
    "special names": ("Is [SEP] or </s> a token?", "A [CLS] and a <s> stand in front, [MASK] and <mask> do not."),
    "code": ("binary search", _CODE),
    "long": ("Where does the river rise?", _PROSE * 4),
    "one word": ("a", "river"),
}
