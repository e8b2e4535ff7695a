"""The fields of other servers that would change the numbers in an answer, where a route does not have them.

Ignoring such a field would return other numbers than the client asked for, so every value is refused but those that ask for
what is returned anyway. A route that obeys a field has it in its body's struct; every field that is in neither place, such
as those in `IGNORED`, changes no number and is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeembed.errors import RequestError, quoted


@dataclass(frozen=True)
class UnsupportedField:
    """servers: where the field is from. instead: what a client should do. harmless: values that change nothing."""

    servers: str
    instead: str
    harmless: tuple[Any, ...] = ()

    def check(self, name: str, value: Any) -> None:
        """Raise RequestError unless the value is harmless."""
        folded = value.lower() if isinstance(value, str) else value
        if any(type(folded) is type(one) and folded == one for one in self.harmless):
            return
        shown = f" {quoted(value)}" if isinstance(value, str) else ""
        raise RequestError(f"{name}{shown} is not supported here; {self.instead}", param=name)


_LEAVE_OUT = "leave it out"
_GENERATORS = "it is for text generators: leave it out"
_V1 = "POST /v1/embeddings takes it"
_LENGTHS = "see the documentation of this route for the field that cuts long texts"
_PROMPTS = "a model name that ends in :query or :document applies the model's prompt"
_PLAIN_TEXT = "send the text as the model should read it"

UNSUPPORTED: dict[str, UnsupportedField] = {
    # The form of the numbers.
    "encoding_format": UnsupportedField("OpenAI", _V1, ("float",)),
    "embedding_type": UnsupportedField("Jina", _V1, ("float", ["float"])),
    "embedding_types": UnsupportedField("Cohere", "POST /v2/embed takes it", ("float", ["float"])),
    "output_dtype": UnsupportedField("Voyage, Mistral", _V1, ("float",)),
    "embed_dtype": UnsupportedField("vLLM", _V1, ("float", "float32")),
    "precision": UnsupportedField("sentence-transformers", "POST /v1/embeddings has output_dtype", ("float32",)),
    "dimensions": UnsupportedField("OpenAI", _V1),
    "output_dimension": UnsupportedField("Cohere, Voyage, Mistral", _V1),
    "normalize": UnsupportedField("TEI", _V1, (True,)),
    "normalized": UnsupportedField("Jina", _V1, (True,)),
    "embd_normalize": UnsupportedField("llama-server", _V1, (2,)),
    "use_activation": UnsupportedField("vLLM", _LEAVE_OUT, (True,)),
    "activation": UnsupportedField("vLLM", _LEAVE_OUT, (True,)),
    "raw_scores": UnsupportedField("TEI", "POST /rerank takes it", (False,)),
    "top_k": UnsupportedField("Voyage, vLLM", _LEAVE_OUT),
    # The text around a text, and how it is read.
    "input_type": UnsupportedField("Cohere, Voyage, NVIDIA", _PROMPTS),
    "task": UnsupportedField("Jina, vLLM", _PROMPTS, ("embed",)),
    "prompt_name": UnsupportedField("TEI, sentence-transformers", _PROMPTS),
    "prompt": UnsupportedField("sentence-transformers", _PLAIN_TEXT),
    "instruction": UnsupportedField("edgeembed, vLLM", _PLAIN_TEXT),
    "instruct": UnsupportedField("SGLang", _PLAIN_TEXT),
    "messages": UnsupportedField("vLLM", "POST /v1/embeddings takes one message"),
    "chat_template": UnsupportedField("vLLM", _PLAIN_TEXT),
    "chat_template_kwargs": UnsupportedField("vLLM", _PLAIN_TEXT, ({},)),
    "add_generation_prompt": UnsupportedField("vLLM", _PLAIN_TEXT, (False,)),
    "continue_final_message": UnsupportedField("vLLM", _PLAIN_TEXT, (False,)),
    "add_special_tokens": UnsupportedField("vLLM", "special tokens are always added", (True,)),
    "padding": UnsupportedField("vLLM", "texts are not padded", ("do_not_pad",)),
    "late_chunking": UnsupportedField("Jina", "split the text, and send the parts as texts of their own", (False,)),
    # How long it may be.
    "truncate": UnsupportedField("Cohere, TEI, Jina, NVIDIA", _LENGTHS),
    "truncation": UnsupportedField("Voyage", _LENGTHS),
    "truncation_side": UnsupportedField("vLLM", _LENGTHS),
    "truncation_direction": UnsupportedField("TEI", _LENGTHS, ("right",)),
    "truncate_prompt_tokens": UnsupportedField("vLLM", _LENGTHS),
    "max_tokens_per_doc": UnsupportedField("Cohere, vLLM", _LENGTHS, (0,)),
    "long_text": UnsupportedField("edgeembed", "split the text, or have it cut", ("none",)),
    "max_tokens_per_query": UnsupportedField("vLLM", "a query is cut with its document; see truncate_prompt_tokens", (0,)),
    # Other models, or other tasks of a model.
    "modality": UnsupportedField("infinity", "only texts are supported", ("text",)),
    "images": UnsupportedField("Cohere", "only texts are supported", ([],)),
    "return_multivector": UnsupportedField("Jina", _V1, (False,)),
    "return_dense": UnsupportedField("FlagEmbedding", _V1, (True,)),
    "return_sparse": UnsupportedField("FlagEmbedding", _V1, (False,)),
    "return_colbert_vecs": UnsupportedField("FlagEmbedding", _V1, (False,)),
    "sparse": UnsupportedField("edgeembed", _V1, (False,)),
    "multi_vector": UnsupportedField("edgeembed", _V1, (False,)),
    "sparse_top_k": UnsupportedField("edgeembed", _V1),
    "sparse_threshold": UnsupportedField("edgeembed", _V1),
    "sparse_words": UnsupportedField("edgeembed", _V1, (False,)),
    "label_token_ids": UnsupportedField("SGLang", _GENERATORS, ([],)),
    "apply_softmax": UnsupportedField("SGLang", _GENERATORS, (False,)),
    "item_first": UnsupportedField("SGLang", _GENERATORS, (False,)),
    "lora_path": UnsupportedField("SGLang", "convert the model with its adapter merged"),
    "pooling_type": UnsupportedField("vLLM", "the model file says how its rows are pooled"),
}
"""By name; the servers that define it, and the values that ask for nothing special."""

IGNORED: dict[str, str] = {
    "user": "OpenAI: an end user's name, for its provider",
    "safety_identifier": "OpenAI: the same",
    "metadata": "OpenAI: labels of a request, for its provider",
    "request_id": "vLLM: the id of a request; here, the header X-Request-Id",
    "rid": "SGLang: the same",
    "id": "Jina: the same",
    "priority": "vLLM, SGLang: the order in which requests are computed, which changes no number",
    "cache_salt": "vLLM: separates its cache of prefixes, which this server does not have",
    "endianness": "vLLM: the order of bytes, where the numbers are not sent as bytes",
}
"""Fields without effect on the numbers, and what they are for."""
