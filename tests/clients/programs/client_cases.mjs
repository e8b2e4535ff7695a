// The part that all client programs in JavaScript share. See client_cases.py, which this mirrors.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

export const SETTING = JSON.parse(readFileSync(process.env.CLIENT_SETTING, "utf8"));
export const { url: URL, locked_url: LOCKED_URL, key: KEY, model: MODEL, reranker: RERANKER } = SETTING;
export const { texts: TEXTS, query: QUERY, documents: DOCUMENTS, long_documents: LONG_DOCUMENTS } = SETTING;

const cases = [];

export const rows = (texts, dimensions = null, least = 0.9999) => ({ rows: texts, dimensions, least });
export const finite = (texts) => ({ finite: texts });
export const scores = (count = null, documents = "documents") => ({ scores: documents, count });
export const value = (expected) => ({ value: expected });
export const raises = (name, match = "") => ({ raises: [name], match });

export function addCase(client, operation, expected, run) {
  cases.push({ client, operation, expected, run });
}

// embed: ({texts, url, model, key}) to rows; one: a text to a row. See embedder in client_cases.py.
export function embedder(client, { embed, one, long, empty, unknown, wrongKey, many }) {
  const of = (texts, more = {}) => () => embed({ texts: TEXTS[texts], url: URL, model: MODEL, key: "unused", ...more });
  if (one) addCase(client, "one query", rows("one"), async () => [await one(TEXTS.one[0])]);
  addCase(client, "300 texts", rows("batch"), of("batch"));
  addCase(client, "unicode", rows("unicode"), of("unicode"));
  addCase(client, "2,500 texts", many ?? rows("many"), of("many"));
  addCase(client, "350,000 tokens", rows("book"), of("book"));
  addCase(client, "too long a text", long, of("long"));
  addCase(client, "an empty text", empty, of("empty"));
  if (unknown) addCase(client, "unknown model", unknown, of("one", { model: "no-such-model" }));
  if (wrongKey) {
    addCase(client, "right key", rows("one"), of("one", { url: LOCKED_URL, key: KEY }));
    addCase(client, "wrong key", wrongKey, of("one", { url: LOCKED_URL, key: "wrong" }));
  }
}

// rerank: ({documents, top, model}) to pairs of index and score.
export function reranker(client, { rerank, long, unknown }) {
  const of = (documents, top, model = RERANKER) => () => rerank({ documents, top, model });
  addCase(client, "rerank", scores(), of(DOCUMENTS, DOCUMENTS.length));
  addCase(client, "rerank, best 2", scores(2), of(DOCUMENTS, 2));
  addCase(client, "rerank, too long a document", long ?? scores(null, "long_documents"), of(LONG_DOCUMENTS, LONG_DOCUMENTS.length));
  if (unknown) addCase(client, "rerank, unknown model", unknown, of(DOCUMENTS, 2, "no-such-model"));
}

function encoded(result, expected) {
  if ("scores" in expected) return { scores: result };
  if ("rows" in expected || "finite" in expected || typeof result?.[0]?.[0] === "number") {
    const found = result.map((row) => Float32Array.from(row));
    const lengths = [...new Set(found.map((row) => row.length))];
    if (lengths.length > 1) return { value: `rows of different lengths: ${lengths}` };
    return { rows: Buffer.concat(found.map((row) => Buffer.from(row.buffer))).toString("base64"), count: found.length };
  }
  return { value: result ?? null };
}

function classesOf(error) {
  const found = [error?.name, error?.constructor?.name];
  for (let each = Object.getPrototypeOf(error ?? {}); each && each !== Object.prototype; each = Object.getPrototypeOf(each)) {
    found.push(each.constructor?.name);
  }
  return [...new Set(found.filter(Boolean))].map((name) => `js.${name}`);
}

export async function main() {
  const answer = (content) => process.stdout.write(JSON.stringify(content) + "\n");
  console.log = console.error; // what clients print is no answer
  console.warn = console.error;
  answer(cases.map(({ client, operation, expected }) => [client, operation, expected]));
  for await (const line of createInterface({ input: process.stdin })) {
    const { expected, run } = cases[Number(line)];
    try {
      answer(encoded(await run(), expected));
    } catch (error) {
      const message = String(error?.message ?? error).slice(0, 2000);
      answer({ raised: classesOf(error), message, trace: String(error?.stack).slice(0, 3000) });
    }
  }
}
