// The npm package `openai`.

import OpenAI from "openai";
import { addCase, embedder, main, MODEL, raises, rows, TEXTS, URL, value } from "./client_cases.mjs";

const CLIENT = "openai (npm)";
const client = (url = URL, key = "unused") => new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });

async function embed({ texts, url = URL, model = MODEL, key = "unused", ...more }) {
  const answer = await client(url, key).embeddings.create({ model, input: texts, ...more });
  return answer.data.map((item) => item.embedding);
}

embedder(CLIENT, {
  embed,
  one: async (text) => (await embed({ texts: text }))[0],
  long: raises("js.BadRequestError", "maximum context length is 256 tokens"),
  empty: raises("js.BadRequestError", "empty"),
  unknown: raises("js.NotFoundError"),
  wrongKey: raises("js.AuthenticationError"),
  many: raises("js.BadRequestError", "2048"),
});
addCase(CLIENT, "dimensions", rows("one", 64), () => embed({ texts: TEXTS.one, dimensions: 64 }));
addCase(CLIENT, "float", rows("batch"), () => embed({ texts: TEXTS.batch, encoding_format: "float" }));
addCase(CLIENT, "list of models", value(true), async () => {
  const names = [];
  for await (const each of client().models.list()) names.push(each.id);
  return names.includes(MODEL);
});
await main();
