// LangChain's embeddings in JavaScript.

import { OllamaEmbeddings } from "@langchain/ollama";
import { OpenAIEmbeddings } from "@langchain/openai";
import { addCase, embedder, finite, main, MODEL, raises, rows, TEXTS, URL } from "./client_cases.mjs";

const openai = (url = URL, model = MODEL, key = "unused") =>
  new OpenAIEmbeddings({ model, apiKey: key, maxRetries: 0, configuration: { baseURL: `${url}/v1` } });
const ollama = (url = URL, model = MODEL, key = "unused") =>
  new OllamaEmbeddings({ model, baseUrl: url, maxRetries: 0, headers: { Authorization: `Bearer ${key}` } });

embedder("langchain-openai (npm)", {
  embed: ({ texts, url, model, key }) => openai(url, model, key).embedDocuments(texts),
  one: (text) => openai().embedQuery(text),
  long: raises("js.ContextOverflowError", "maximum context length is 256 tokens"),
  empty: raises("js.BadRequestError", "empty"),
  unknown: raises("js.NotFoundError"),
  wrongKey: raises("js.AuthenticationError"),
});
embedder("langchain-ollama (npm)", {
  embed: ({ texts, url, model, key }) => ollama(url, model, key).embedDocuments(texts),
  one: (text) => ollama().embedQuery(text),
  // It sends "truncate": false unless it is told otherwise.
  long: raises("js.ResponseError", "exceeds the context length"),
  empty: finite("empty"),
  unknown: raises("js.ResponseError", "not found"),
  wrongKey: raises("js.ResponseError"),
});
addCase("langchain-ollama (npm)", "too long a text, truncate", rows("long"), () => {
  return new OllamaEmbeddings({ model: MODEL, baseUrl: URL, truncate: true }).embedDocuments(TEXTS.long);
});
await main();
