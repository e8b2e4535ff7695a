"""Forms of classifiers: sentiment, emotions, languages, toxicity, natural language inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.convert.tiny_bert import edit_json, write_safetensors
from tests.convert.tiny_encoders import calm, make_tiny_cross_encoder, make_tiny_xlm_roberta_reranker, random_dense
from tests.convert.tiny_mpnet import make_tiny_mpnet
from tests.convert.zoo.cross_encoders import (
    make_distil_bert,
    make_electra,
    make_modern_bert,
    make_roberta,
    stored_weights,
)
from tests.convert.zoo.form import Form
from tests.convert.zoo.prompted_rerankers import make_gemma, make_qwen2
from tests.convert.zoo.qwen3 import make_reranker as make_qwen3

SENTIMENTS = ("negative", "neutral", "positive")
NLI = ("contradiction", "entailment", "neutral")
EMOTIONS = tuple(f"emotion {number}" for number in range(28))
TOXICITY = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
LANGUAGES = tuple(f"language {number}" for number in range(20))
_MULTI_LABEL = {"problem_type": "multi_label_classification"}


def make_classifier(
    folder: Path, make: Callable[[Path], Path], last: str, labels: Sequence[str] | None, **config: Any
) -> Path:
    """Write a reranker's checkpoint with another last layer. labels: None for the two that transformers takes by default.

    last: the name of the layer. config: other keys of config.json.
    """
    make(folder)
    weights = stored_weights(folder)
    hidden = weights[f"{last}.weight"].shape[1]
    write_safetensors(folder / "model.safetensors", weights | random_dense(7, len(labels or "ab"), hidden, last))
    names = None if labels is None else {str(number): label for number, label in enumerate(labels)}
    edit_json(
        folder / "config.json",
        id2label=names,
        label2id=None if labels is None else {label: number for number, label in enumerate(labels)},
        sentence_transformers=None,
        **config,
    )
    return folder


_BERT = partial(make_classifier, make=make_tiny_cross_encoder, last="classifier")
_ROBERTA = partial(make_classifier, make=make_roberta, last="classifier.out_proj")


def make_mpnet(folder: Path) -> Path:
    """Write an MPNet checkpoint with a classifier of one label."""
    make_tiny_mpnet(folder, masked_lm=False)
    weights = {f"mpnet.{name.removeprefix('mpnet.')}": tensor for name, tensor in calm(stored_weights(folder)).items()}
    weights = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    head = random_dense(1, 64, 64, "classifier.dense") | random_dense(2, 1, 64, "classifier.out_proj")
    write_safetensors(folder / "model.safetensors", weights | head)
    (folder / "modules.json").unlink()
    edit_json(folder / "config.json", architectures=["MPNetForSequenceClassification"])
    return folder


def make_decoder(folder: Path, make: Callable[[Path], Path], architecture: str) -> Path:
    """Write the checkpoint of a text generator with a classifier of two labels instead of its LM head."""
    make(folder)
    weights = stored_weights(folder)
    weights.pop("lm_head.weight", None)
    weights["score.weight"] = random_dense(7, 2, weights["model.norm.weight"].shape[0], "score")["score.weight"]
    write_safetensors(folder / "model.safetensors", weights)
    for file in ("modules.json", "README.md"):
        (folder / file).unlink(missing_ok=True)
    edit_json(
        folder / "config.json",
        architectures=[architecture],
        id2label={"0": "Default", "1": "Hate"},
        label2id={"Default": 0, "Hate": 1},
        pad_token_id=1,
    )
    return folder


_F32 = {"cls.weight": "ours stays F32", "cls.output.weight": "ours stays F32"}

FORMS = (
    Form(
        "bert_classifier",
        ("ProsusAI/finbert", "nlptown/bert-base-multilingual-uncased-sentiment"),
        "BertForSequenceClassification",
        partial(_BERT, labels=SENTIMENTS, problem_type="single_label_classification"),
        "rank",
        labels=3,
    ),
    Form(
        "bert_classifier_multi_label",
        ("unitary/toxic-bert",),
        "BertForSequenceClassification",
        partial(_BERT, labels=TOXICITY, **_MULTI_LABEL),
        "rank",
        labels=6,
    ),
    Form(
        "bert_classifier_unnamed",
        ("textattack/bert-base-uncased-SST-2",),
        "BertForSequenceClassification",
        partial(_BERT, labels=None),
        "rank",
        labels=2,
    ),
    Form(
        "distil_bert_classifier",
        ("distilbert/distilbert-base-uncased-finetuned-sst-2-english",),
        "DistilBertForSequenceClassification",
        partial(make_classifier, make=make_distil_bert, last="classifier", labels=("NEGATIVE", "POSITIVE")),
        "rank",
        labels=2,
        most_at_q8_0=0.2,
    ),
    Form(
        "roberta_classifier",
        (
            "cardiffnlp/twitter-roberta-base-sentiment-latest",
            "cross-encoder/nli-MiniLM2-L6-H768",
            "j-hartmann/emotion-english-distilroberta-base",
        ),
        "RobertaForSequenceClassification",
        partial(_ROBERTA, labels=NLI),
        "rank",
        labels=3,
        context=1280,
    ),
    Form(
        "roberta_classifier_multi_label",
        ("SamLowe/roberta-base-go_emotions",),
        "RobertaForSequenceClassification",
        partial(_ROBERTA, labels=EMOTIONS, **_MULTI_LABEL),
        "rank",
        labels=28,
        context=1280,
    ),
    Form(
        "camembert_classifier",
        ("cmarkea/distilcamembert-base-sentiment",),
        "CamembertForSequenceClassification",
        partial(
            make_classifier,
            make=partial(make_roberta, camembert=True),
            last="classifier.out_proj",
            labels=("1 star", "2 stars", "3 stars", "4 stars", "5 stars"),
        ),
        "rank",
        labels=5,
    ),
    Form(
        "xlm_roberta_classifier",
        ("papluca/xlm-roberta-base-language-detection", "cardiffnlp/twitter-xlm-roberta-base-sentiment"),
        "XLMRobertaForSequenceClassification",
        partial(make_classifier, make=make_tiny_xlm_roberta_reranker, last="classifier.out_proj", labels=LANGUAGES),
        "rank",
        labels=20,
        differs=_F32,
    ),
    Form(
        "electra_classifier",
        ("howey/electra-base-mnli",),
        "ElectraForSequenceClassification",
        partial(make_classifier, make=partial(make_electra, classifier=True), last="classifier.out_proj", labels=NLI),
        "rank",
        labels=3,
    ),
    Form(
        "modern_bert_classifier",
        ("tasksource/ModernBERT-base-nli",),
        "ModernBertForSequenceClassification",
        partial(make_classifier, make=partial(make_modern_bert, pooling="mean"), last="classifier", labels=NLI),
        "rank",
        labels=3,
        context=1280,
    ),
    Form(
        "qwen2_sequence_classifier",
        ("jason9693/Qwen2.5-1.5B-apeach",),
        "Qwen2ForSequenceClassification",
        partial(make_decoder, make=make_qwen2, architecture="Qwen2ForSequenceClassification"),
        "rank",
        labels=2,
        pairs=False,
        most_at_q8_0=0.3,
        context=1024,
    ),
    Form(
        "qwen3_classifier",
        ("fine-tunes of Qwen/Qwen3-0.6B",),
        "Qwen3ForSequenceClassification",
        partial(make_decoder, make=make_qwen3, architecture="Qwen3ForSequenceClassification"),
        "rank",
        labels=2,
        pairs=False,
        most_at_q8_0=0.3,
        context=1280,
    ),
    Form(
        "gemma_classifier",
        ("fine-tunes of google/gemma-2b",),
        "GemmaForSequenceClassification",
        partial(make_decoder, make=make_gemma, architecture="GemmaForSequenceClassification"),
        "rank",
        labels=2,
        pairs=False,
        most_at_q8_0=0.3,
        context=1024,
    ),
    Form(
        "mpnet_classifier",
        ("symanto/mpnet-base-snli-mnli",),
        "MPNetForSequenceClassification",
        partial(make_classifier, make=make_mpnet, last="classifier.out_proj", labels=NLI),
        "rank",
        labels=3,
    ),
)
