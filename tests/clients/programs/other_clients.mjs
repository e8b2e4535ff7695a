// The npm packages `@huggingface/inference` and `voyageai`.

import { InferenceClient } from "@huggingface/inference";
import { VoyageAIClient } from "voyageai";
import { embedder, main, MODEL, QUERY, raises, reranker, rows, URL } from "./client_cases.mjs";

const endpoint = (url = URL, key = "unused") => new InferenceClient(key).endpoint(url);

embedder("@huggingface/inference", {
  embed: ({ texts, url, key }) => endpoint(url, key).featureExtraction({ inputs: texts }),
  one: async (text) => (await endpoint().featureExtraction({ inputs: text }))[0],
  long: rows("long"),
  empty: raises("js.InferenceClientProviderApiError"),
  wrongKey: raises("js.InferenceClientProviderApiError"),
  many: raises("js.InferenceClientProviderApiError"),
});

const voyage = (url = URL, key = "unused") => new VoyageAIClient({ apiKey: key, environment: `${url}/v1` });

embedder("voyageai (npm)", {
  embed: async ({ texts, url, model, key }) => (await voyage(url, key).embed({ model, input: texts })).data.map((item) => item.embedding),
  one: async (text) => (await voyage().embed({ model: MODEL, input: text, inputType: "query" })).data[0].embedding,
  // It does not say whether to cut, and the route is OpenAI's, which refuses.
  long: raises("js.VoyageAIError", "maximum context length is 256 tokens"),
  empty: raises("js.VoyageAIError"),
  unknown: raises("js.VoyageAIError"),
  wrongKey: raises("js.VoyageAIError"),
  many: raises("js.VoyageAIError"),
});
reranker("voyageai (npm)", {
  rerank: async ({ documents, top, model }) =>
    (await voyage().rerank({ model, query: QUERY, documents, topK: top })).data.map((item) => [item.index, item.relevanceScore]),
  unknown: raises("js.VoyageAIError"),
});
await main();
