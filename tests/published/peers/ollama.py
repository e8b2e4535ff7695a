"""Ollama: the tests of its embeddings, of its routes, and of its compatibility with OpenAI."""

from __future__ import annotations

from tests.published.cases import LeftOut, Peer
from tests.published.peers import ollama_embed, ollama_routes

CASES_OF_MODELS = "integration/embed_cases_test.go::"
API = "integration/api_test.go::"

PEER = Peer(
    "Ollama",
    "ollama/ollama",
    [*ollama_embed.CASES, *ollama_routes.CASES],
    [
        LeftOut(CASES_OF_MODELS, 10, "recorded rows of models that these tests do not have"),
        LeftOut(API, 4, "generate and chat"),
        LeftOut("server/routes_test.go::", 11, "an empty store, safetensors, templates, thinking, Copilot's user agent"),
        LeftOut("middleware/openai_test.go::", 15, "chat, completions, responses"),
    ],
    "generation of text and images, audio, tools, creation and quantisation of models, its scheduler",
)
