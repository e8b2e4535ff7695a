// The npm package `ollama`.

import { Ollama } from "ollama";
import { addCase, embedder, finite, main, MODEL, raises, rows, TEXTS, URL, value } from "./client_cases.mjs";

const CLIENT = "ollama (npm)";
const client = (url = URL, key = "unused") => new Ollama({ host: url, headers: { Authorization: `Bearer ${key}` } });

async function embed({ texts, url = URL, model = MODEL, key = "unused", ...more }) {
  return (await client(url, key).embed({ model, input: texts, ...more })).embeddings;
}

embedder(CLIENT, {
  embed,
  one: async (text) => (await embed({ texts: text }))[0],
  long: rows("long"),
  empty: finite("empty"),
  unknown: raises("js.ResponseError", "not found"),
  wrongKey: raises("js.ResponseError"),
});
addCase(CLIENT, "embeddings", rows("one"), async () => [(await client().embeddings({ model: MODEL, prompt: TEXTS.one[0] })).embedding]);
addCase(CLIENT, "list", value(true), async () => (await client().list()).models.some((each) => each.model === `${MODEL}:latest`));
addCase(CLIENT, "show", value(["embedding"]), async () => (await client().show({ model: MODEL })).capabilities);
addCase(CLIENT, "pull of what is installed", value("success"), async () => (await client().pull({ model: MODEL })).status);
addCase(CLIENT, "pull, streamed", value("success"), async () => {
  let last;
  for await (const each of await client().pull({ model: MODEL, stream: true })) last = each.status;
  return last;
});
await main();
