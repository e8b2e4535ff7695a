"""vLLM: the tests of its pooling entry points."""

from __future__ import annotations

from tests.published.cases import LeftOut, Peer
from tests.published.peers import vllm_cohere, vllm_embed, vllm_scoring

POOLING = "tests/entrypoints/pooling/"
EMBED = POOLING + "embed/test_online.py::"
LONG_TEXT = POOLING + "embed/test_online_long_text.py::"
CROSS = POOLING + "scoring/test_cross_encoder_online.py::"
PER_DOC = POOLING + "scoring/test_max_tokens_per_doc.py::"
LIMITS = POOLING + "test_pooling_prompt_limit.py::"
CLASSIFY = POOLING + "classify/test_online.py::"
PLAIN = POOLING + "pooling/test_online.py::"

PEER = Peer(
    "vLLM",
    "vllm-project/vllm",
    [*vllm_embed.CASES, *vllm_cohere.CASES, *vllm_scoring.CASES],
    [
        LeftOut(EMBED, 3, "counts of tokens under a chat template of its own"),
        LeftOut(LONG_TEXT, 4, "a mean over the parts of a text, which its server has to be told"),
        LeftOut(PER_DOC, 4, "two more models"),
        LeftOut(CROSS, 2, "order of a trained reranker; ours has random weights"),
        LeftOut(CLASSIFY, 17, "a classifier"),
        LeftOut(PLAIN, 15, "a reward model: a number for each token"),
        LeftOut("tests/entrypoints/openai/test_tokenization.py::", 7, "chat templates, tools, /tokenizer_info"),
        LeftOut(LIMITS, 9, "/pooling, /classify and plug-ins"),
        LeftOut(
            POOLING,
            60,
            "other files: engines without HTTP, images, ColBERT, rewards, generative scores, classes of its server",
        ),
    ],
)
