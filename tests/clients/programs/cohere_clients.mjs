// The npm package `cohere-ai`.

import { CohereClient, CohereClientV2 } from "cohere-ai";
import { embedder, main, MODEL, QUERY, raises, reranker, rows, URL } from "./client_cases.mjs";

const options = (url, key) => ({ environment: url, baseUrl: url, token: key, maxRetries: 0 });

async function embedV2({ texts, url = URL, model = MODEL, key = "unused" }) {
  const client = new CohereClientV2(options(url, key));
  const answer = await client.embed({ model, texts, inputType: "search_document", embeddingTypes: ["float"] });
  return answer.embeddings.float;
}

async function embedV1({ texts, url = URL, model = MODEL, key = "unused" }) {
  return (await new CohereClient(options(url, key)).embed({ model, texts, inputType: "search_document" })).embeddings;
}

for (const [name, embed] of [["cohere-ai (npm), v2", embedV2], ["cohere-ai (npm), v1", embedV1]]) {
  embedder(name, {
    embed,
    one: async (text) => (await embed({ texts: [text] }))[0],
    long: rows("long"),
    empty: raises("js.BadRequestError", "empty"),
    unknown: raises("js.NotFoundError"),
    wrongKey: raises("js.UnauthorizedError"),
    many: raises("js.BadRequestError"),
  });
}
for (const [name, Client] of [["cohere-ai (npm), v2", CohereClientV2], ["cohere-ai (npm), v1", CohereClient]]) {
  reranker(name, {
    rerank: async ({ documents, top, model }) => {
      const answer = await new Client(options(URL, "unused")).rerank({ model, query: QUERY, documents, topN: top });
      return answer.results.map((item) => [item.index, item.relevanceScore]);
    },
    unknown: raises("js.NotFoundError"),
  });
}
await main();
