"""Prompts of rerankers that are text generators: they ask for an answer, whose logit is the score.

Their makers have the template and the answers in code, not in the checkpoint, so they are stated here. A model file has the
template as that of pairs (`pair_template`), and the answers' rows of the LM head as a classifier (`classifier`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AnswerPrompt:
    """How a text generator is asked whether a document is relevant, and which answers count."""

    name: str
    template: str
    answers: tuple[str, ...]
    """The score is the logit of the first, less that of the second if there is one."""


MXBAI_RERANK = AnswerPrompt(
    name="mxbai-rerank-v2",
    template=(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n{cut}query: {query}{cut}\n{cut}document: {document}{cut}\n{cut}"
        "You are a search relevance expert who evaluates how well documents match search queries. For each query-document "
        "pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment "
        "(0 for not relevant, 1 for relevant).\nRelevance:<|im_end|>\n<|im_start|>assistant\n"
    ),
    answers=("1", "0"),
)
"""mixedbread-ai/mxbai-rerank, mxbai_rerank_v2.py."""
BGE_RERANKER_GEMMA = AnswerPrompt(
    name="bge-reranker-v2-gemma",
    template=(
        "<bos>A: {query}{cut}\n{cut}B: {document}{cut}\n{cut}Given a query A and a passage B, determine whether the passage "
        "contains an answer to the query by providing a prediction of either 'Yes' or 'No'."
    ),
    answers=("Yes",),
)
"""FlagOpen/FlagEmbedding, FlagLLMReranker."""
