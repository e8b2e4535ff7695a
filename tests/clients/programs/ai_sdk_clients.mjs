// Vercel's AI SDK, with three of its providers.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed as embedOne, embedMany } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { embedder, finite, main, MODEL, raises, rows, URL } from "./client_cases.mjs";

const providers = {
  "ai-sdk, openai-compatible": (url, key, model) =>
    createOpenAICompatible({ name: "edgeembed", baseURL: `${url}/v1`, apiKey: key }).embeddingModel(model),
  "ai-sdk, openai": (url, key, model) => createOpenAI({ baseURL: `${url}/v1`, apiKey: key }).embedding(model),
  "ai-sdk, ollama": (url, key, model) =>
    createOllama({ baseURL: `${url}/api`, headers: { Authorization: `Bearer ${key}` } }).embedding(model),
};

for (const [name, modelOf] of Object.entries(providers)) {
  const ollama = name.endsWith("ollama");
  embedder(name, {
    embed: async ({ texts, url = URL, model = MODEL, key = "unused" }) =>
      (await embedMany({ model: modelOf(url, key, model), values: texts, maxRetries: 0 })).embeddings,
    one: async (text) => (await embedOne({ model: modelOf(URL, "unused", MODEL), value: text, maxRetries: 0 })).embedding,
    long: ollama ? rows("long") : raises("js.AI_APICallError", "maximum context length is 256 tokens"),
    empty: ollama ? finite("empty") : raises("js.AI_APICallError", "empty"),
    unknown: raises("js.AI_APICallError", ollama ? "Not Found" : "no-such-model"),
    wrongKey: raises("js.AI_APICallError"),
  });
}
await main();
