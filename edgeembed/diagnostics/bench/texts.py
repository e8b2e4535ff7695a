"""Random English-like texts for measurements, made from a seed and never repeated.

A repeated text could be answered from a cache, so that a server would appear faster than it is. A corpus would have to be
downloaded, and has repetitions.
"""

from __future__ import annotations

import random

_WORDS = """
the of and to in is that it was for on are with as his they at be this have from or had by but not what all were when we
there can an your which their said if do will each about how up out them then she many some so these would other into has
more her two like him see time could no make than first been its who now people my made over did down only way find use may
water long little very after called just where most know get through back much before go good new write our used me man too
any day same right look think also around another came come work three word must because does part even place well such here
take why things help put years different away again off went old number great tell men say small every found still between
name should home big give air line set own under read last never us left end along while might next sound below saw
something thought both few those always looked show large often together asked house world going want school important until
form food keep children feet land side without boy once animals life enough took sometimes four head above kind began almost
live page got earth need far hand high year mother light parts country father let night following picture being study second
eyes soon times story boys since white days ever paper hard near sentence better best across during today others however sure
means knew try told young miles sun ways thing whole hear example heard several change answer room sea against top turned
learn point city play toward five using himself usually money seen car morning body upon family later turn move face door cut
done group true leave color red friends feel music field open black river table street early market state power region price
office letter century system garden winter summer season church village history council law army ship train bridge island
mountain forest valley engine machine signal measure weather cloud storm metal copper silver glass stone cotton bread sugar
coffee doctor patient disease health blood heart brain memory language grammar poem novel author reader printer window mirror
camera library museum theatre painter singer guitar violin football tennis soldier officer judge lawyer worker farmer teacher
student lesson college science physics chemistry biology theory method result sample average balance budget profit income
account payment customer contract delivery package station airport journey ticket hotel kitchen dinner butter cheese orange
"""
_STEMS = """
brav clar grand slend firm sharp harsh loos stern mild quick dens solid humid moral rural tribal vocal formal global plural
print paint plant build mend bind fold climb grind blend trad sketch hunt sail plan draft render trust grant yield settl
"""
_ENDINGS = ("ing", "er", "ers", "ly", "ness", "ity", "able", "ism", "ist", "ish")
_COMMON = tuple(_WORDS.split())
_RARE = tuple(stem + ending for stem in _STEMS.split() for ending in _ENDINGS)
_VOCABULARY = (*_COMMON * 5, *_RARE)
"""One word in six is a rare one of two tokens. The average is 1.16 tokens per word with the vocabularies of BERT and Qwen:
400 words stay below the 512 tokens of BERT."""


class TextMaker:
    """Makes texts without repeating one. Makers with the same seed make the same texts."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._seen: set[str] = set()

    def text(self, words: int) -> str:
        """Return a new text of `words` words, at least three, as there are too few shorter texts."""
        while True:
            text = " ".join(self._random.choices(_VOCABULARY, k=max(words, 3)))
            if text not in self._seen:
                self._seen.add(text)
                return text

    def texts(self, count: int, words: int) -> list[str]:
        """Return new texts of `words` words each."""
        return [self.text(words) for _ in range(count)]
