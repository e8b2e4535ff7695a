"""Frames that are known: what each family of models puts around a text, and how it makes one vector of the tokens'.

Two tables. A vocabulary fixes its special tokens and its pre-tokenizer, whatever a fine-tune is called; it is recognised by
tokens that only it has. Pooling and dense layers belong to a model, which is recognised by the `general.name` of its file.
Sources: tokenizer.json, modules.json and 1_Pooling/config.json of the named checkpoints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgeembed.engine.answer_prompts import BGE_RERANKER_GEMMA, MXBAI_RERANK, AnswerPrompt

Pooling = Literal["mean", "cls", "last", "rank"]

WORD_START = "\u2581"


@dataclass(frozen=True)
class VocabularyFrame:
    """A vocabulary, and what its tokenizer puts around a text. Special tokens are given by name."""

    name: str
    architectures: frozenset[str]
    model: str
    """`tokenizer.ggml.model`."""
    marks: tuple[str, ...]
    """Tokens that it has."""
    before: str | None = None
    after: str | None = None
    after_role: str = "eos"
    """llama.cpp's name of the role of the last token."""
    unknown: str | None = None
    splitter: str | None = None
    """`tokenizer.ggml.pre` where the file names none."""
    normalizer: str | None = None
    flags: tuple[tuple[str, bool], ...] = ()
    """Other keys of the tokenizer, without `tokenizer.ggml.`."""
    pair: str | None = None
    """Template for a query and a document of its cross-encoders."""
    most_tokens: int | None = None
    """A larger vocabulary is another one."""


VOCABULARIES = (
    VocabularyFrame(
        name="Qwen's",
        architectures=frozenset({"qwen2", "qwen3"}),
        model="gpt2",
        marks=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        after="<|endoftext|>",
        splitter="qwen2",
    ),
    VocabularyFrame(
        name="ModernBERT's",
        architectures=frozenset({"modern-bert"}),
        model="gpt2",
        marks=("[CLS]", "[SEP]", "[MASK]"),
        before="[CLS]",
        after="[SEP]",
        splitter="gpt-2",
        normalizer="nfc",
        pair="[CLS]{query}[SEP]{document}[SEP]",
        most_tokens=51_200,
    ),
    VocabularyFrame(
        name="WordPiece",
        architectures=frozenset({"bert", "nomic-bert", "gte", "jina-bert-v2", "neo-bert"}),
        model="bert",
        marks=("[CLS]", "[SEP]", "[UNK]"),
        before="[CLS]",
        after="[SEP]",
        after_role="seperator",
        unknown="[UNK]",
    ),
    VocabularyFrame(
        name="MPNet's",
        architectures=frozenset({"mpnet"}),
        model="bert",
        marks=("<s>", "</s>", "[UNK]"),
        before="<s>",
        after="</s>",
        after_role="seperator",
        unknown="[UNK]",
    ),
    VocabularyFrame(
        name="XLM-RoBERTa's",
        architectures=frozenset({"bert", "gte", "jina-bert-v3", "nomic-bert-moe"}),
        model="t5",
        marks=("<s>", "</s>", "<pad>", "<unk>"),
        before="<s>",
        after="</s>",
        unknown="<unk>",
        flags=(("add_space_prefix", True), ("remove_extra_whitespaces", True)),
        pair="<s>{query}</s></s>{document}</s>",
    ),
    VocabularyFrame(
        name="T5's",
        architectures=frozenset({"t5encoder"}),
        model="t5",
        marks=("</s>", "<pad>", "<unk>"),
        after="</s>",
        unknown="<unk>",
        flags=(("add_bos_token", False), ("add_space_prefix", True), ("remove_extra_whitespaces", True)),
    ),
    VocabularyFrame(
        name="RoBERTa's",
        architectures=frozenset({"bert", "jina-bert-v2"}),
        model="gpt2",
        marks=("<s>", "</s>", "<pad>", "<unk>"),
        before="<s>",
        after="</s>",
        splitter="roberta-bpe",
        pair="<s>{query}</s></s>{document}</s>",
    ),
    VocabularyFrame(
        name="Llama 2's",
        architectures=frozenset({"llama"}),
        model="llama",
        marks=("<s>", "</s>", "<unk>", "<0x00>"),
        before="<s>",
        after="</s>",
        flags=(("add_space_prefix", True),),
        most_tokens=32_064,
    ),
    VocabularyFrame(
        name="LFM2's",
        architectures=frozenset({"lfm2"}),
        model="gpt2",
        marks=("<|startoftext|>", "<|im_start|>", "<|im_end|>"),
        before="<|startoftext|>",
        splitter="lfm2",
    ),
    VocabularyFrame(
        name="EuroBERT's",
        architectures=frozenset({"eurobert"}),
        model="gpt2",
        marks=("<|begin_of_text|>", "<|end_of_text|>", "<|mask|>"),
        splitter="llama-bpe",
    ),
    VocabularyFrame(
        name="Gemma's",
        architectures=frozenset({"gemma", "gemma-embedding", "gemma3"}),
        model="llama",
        marks=("<bos>", "<eos>", "<pad>", "<unk>"),
        before="<bos>",
        after="<eos>",
        flags=(("add_space_prefix", False),),
    ),
)


@dataclass(frozen=True)
class ModelFrame:
    """Models with one pooling."""

    name: str
    pattern: str
    """A regular expression for the folded `general.name` without what `_TAIL` matches."""
    architectures: frozenset[str]
    pooling: Pooling
    dense: int = 0
    """How many dense layers follow the pooling."""
    causal: bool | None = None
    """Whether tokens attend to those before them only; None: not compared."""
    prompt: AnswerPrompt | None = None
    """Of a text generator that scores pairs by its answer."""


def _model(
    name: str, pattern: str, pooling: Pooling, *architectures: str, dense: int = 0, causal: bool | None = None
) -> ModelFrame:
    return ModelFrame(name, pattern, frozenset(architectures), pooling, dense, causal)


MODELS = (
    _model("Qwen3-Embedding", "qwen3-embedding", "last", "qwen3"),
    _model("EmbeddingGemma", "embedding-?gemma", "mean", "gemma-embedding", dense=2),
    _model("LaBSE", "labse", "cls", "bert", dense=1),
    _model("distiluse", "distiluse-base-multilingual-cased", "mean", "bert", dense=1),
    _model("clip-ViT-B-32-multilingual", "clip-vit-b-32-multilingual", "mean", "bert", dense=1),
    _model("sentence-t5", "(sentence|gtr)-t5-(base|large|xl|xxl)", "mean", "t5encoder", dense=1),
    _model("LFM2.5-Embedding", "lfm2\\.5-embedding", "cls", "lfm2"),
    _model("harrier", "harrier-oss", "last", "qwen3", "gemma3", "gemma-embedding", causal=True),
    ModelFrame(
        "mxbai-rerank-v2", "mxbai-rerank-(base|large)", frozenset({"qwen2"}), "rank", causal=True, prompt=MXBAI_RERANK
    ),
    ModelFrame(
        "bge-reranker-v2-gemma",
        "bge-reranker-v2-gemma",
        frozenset({"gemma"}),
        "rank",
        causal=True,
        prompt=BGE_RERANKER_GEMMA,
    ),
    _model("gte-Qwen2", "gte-qwen2", "last", "qwen2", "llama-embed", causal=False),
    _model("jina-code-embeddings", "jina-code-embeddings", "last", "qwen2", causal=True),
    _model("KaLM v2", "kalm-embedding-multilingual-mini-instruct-v2(\\.5)?", "mean", "qwen2", "llama-embed", causal=False),
    _model("KaLM v1", "kalm-embedding-multilingual-mini(-instruct)?-v1(\\.5)?", "mean", "qwen2", causal=True),
    _model("nemotron", "llama-(embed-nemotron|nemotron-embed)", "mean", "llama-embed", causal=False),
    _model("e5-mistral", "e5-mistral", "last", "llama", causal=True),
    _model("SFR-Embedding", "sfr-embedding(-mistral|-2-r)", "last", "llama", causal=True),
    _model("Linq-Embed-Mistral", "linq-embed-mistral", "last", "llama", causal=True),
    _model("bge-m3", "bge-m3", "cls", "bert"),
    _model("bge", "bge-(small|base|large)", "cls", "bert"),
    _model("snowflake-arctic-embed", "snowflake-arctic-embed-(xs|s|m|l)(-long)?", "cls", "bert", "nomic-bert", "gte"),
    _model("mxbai-embed", "mxbai-embed-(xsmall|large)", "cls", "bert"),
    _model("UAE-Large", "uae-large", "cls", "bert"),
    _model("gte-modernbert-base", "gte-modernbert-base", "cls", "modern-bert"),
    _model("granite-embedding", "granite-embedding(-(small|r2))*", "cls", "bert", "modern-bert"),
    _model("modernbert-embed", "modernbert-embed-(base|large)", "mean", "modern-bert"),
    _model(
        "sentence-transformers",
        "(all|paraphrase(-multilingual)?)-(minilm-l\\d+|mpnet-base|distilroberta|roberta-large)",
        "mean",
        "bert",
        "mpnet",
    ),
    _model("multi-qa-mpnet-base-dot", "multi-qa-mpnet-base-dot", "cls", "mpnet"),
    _model("multi-qa-mpnet-base-cos", "multi-qa-mpnet-base-cos", "mean", "mpnet"),
    _model("e5", "(multilingual-)?e5-(small|base|large)", "mean", "bert"),
    _model("gte", "gte-(small|base|large)", "mean", "bert"),
    _model("gte v1.5", "gte-((base|large)-en-v1\\.5|multilingual-base)", "cls", "gte"),
    _model("nomic-embed-text", "nomic-embed-text", "mean", "nomic-bert", "nomic-bert-moe"),
    _model("jina-embeddings", "jina-embeddings-v[23]", "mean", "jina-bert-v2", "jina-bert-v3"),
    _model(
        "jina-embeddings-v5-text",
        "jina-embeddings-v5-text-(nano|small)(-(retrieval|text-matching|clustering|classification))?",
        "last",
        "eurobert",
        "qwen3",
    ),
)

_TAIL = (
    r"(-(en|zh|de|es|code|english|multilingual|instruct|base|small|moe|r2|gguf|hf|v\d[\d.]*|\d+(\.\d+)?[bm]"
    r"|b?f(16|32)|i?q\d(-([01klms]|nl|x+s))*))*"
)
"""What may follow a model's name: a language, a version, a size, a type. After anything else it is another model's."""


def model_of(architecture: str, name: str) -> ModelFrame | None:
    """Return the model that a `general.name` means; None if it is not in the table."""
    folded = re.sub(r"[\s_-]+", "-", name.rpartition("/")[2].strip().lower())
    for model in MODELS:
        if architecture in model.architectures and re.fullmatch(model.pattern + _TAIL, folded):
            return model
    return None
