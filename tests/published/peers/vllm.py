"""vLLM: the tests of its pooling entry points."""

from __future__ import annotations

from tests.published.cases import LeftOut, Peer
from tests.published.peers import vllm_classify, vllm_cohere, vllm_embed, vllm_pooling, vllm_scoring

POOLING = "tests/entrypoints/pooling/"
EMBED = POOLING + "embed/test_online.py::"
LONG_TEXT = POOLING + "embed/test_online_long_text.py::"
COHERE_PROTOCOL = POOLING + "embed/test_cohere_protocol.py::"
PER_DOC = POOLING + "scoring/test_max_tokens_per_doc.py::"
CLASSIFY = POOLING + "classify/test_online.py::"
PLAIN = POOLING + "pooling/test_online.py::"
LATE = POOLING + "scoring/late_interaction/test_late_interaction_online.py::"
TOKEN_EMBED = POOLING + "token_embed/test_online.py::"
SALT = POOLING + "test_cache_salt_validation.py::"
LIMITS = POOLING + "test_pooling_prompt_limit.py::"
TOKENS = "tests/entrypoints/openai/test_tokenization.py::"

PEER = Peer(
    "vLLM",
    "vllm-project/vllm",
    [*vllm_embed.CASES, *vllm_cohere.CASES, *vllm_pooling.CASES, *vllm_scoring.CASES, *vllm_classify.CASES],
    [
        LeftOut(EMBED, 3, "counts of tokens under a chat template of its own"),
        LeftOut(LONG_TEXT, 3, "the mean over the parts of a text, which its server has to be told"),
        LeftOut(COHERE_PROTOCOL, 14, "how its server reads the prompts of a model"),
        LeftOut(PER_DOC, 4, "two more models"),
        LeftOut(CLASSIFY, 1, "the ids of its model's tokens"),
        LeftOut(PLAIN, 3, "the route that its server is told to have for /invocations, chat templates"),
        LeftOut(LATE, 1, "images"),
        LeftOut(TOKEN_EMBED, 1, "a server that has one task only"),
        LeftOut(TOKENS, 7, "chat templates, tools, /tokenizer_info"),
        LeftOut(SALT, 1, "completions"),
        LeftOut(LIMITS, 8, "/classify and plug-ins, and lists of texts that are longer than its server allows"),
    ],
    "engines without HTTP, images, rewards, generative scores, classes of its server",
)
