// The playground: what a model computes of the texts that a user types. It uses the public routes only.

import { $, Failure, ask, make } from "./page.js";
import { heatMap } from "./heat_map.js";

/** prompted: names of models that read queries with a prompt. outputs: what each model computes. */
let models = { prompted: new Set(), outputs: new Map() };

export function setModels(found) {
  models = found;
  showForms();
}

const chosen = () => $("embedder").value || undefined;
const computes = (output) => (models.outputs.get(chosen()) ?? []).includes(output);
/** Whether the daemon says what the model computes, and that it is not this. */
const lacks = (output) => models.outputs.get(chosen())?.length > 0 && !computes(output);

// --- forms -----------------------------------------------------------------------------------------------------------

/** Remove what a form shows: of another model, or of texts that are not there any more. */
function clear(within) {
  for (const element of document.querySelectorAll(["result", "words", "error", "note"].map((part) => `${within}[id$=-${part}]`).join())) element.replaceChildren();
}

/** Handle a form: its button is disabled meanwhile, and an error takes the place of the result. */
function handle(form, work) {
  $(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.submitter ?? $(form).querySelector("[type=submit]");
    const [error, note] = [$(`${form}-error`), $(`${form}-note`)];
    error.textContent = "";
    button.disabled = true;
    const began = performance.now();
    try {
      const cache = await work();
      const took = performance.now() - began;
      const from = cache === "hit" ? ", from the cache" : "";
      note.textContent = `${took < 10 ? took.toFixed(1) : Math.round(took)} ms${from}`;
    } catch (failure) {
      clear(`#${form} `);
      if (!(failure instanceof Failure)) throw failure;
      error.textContent = failure.message;
      if (failure.status === 401) dispatchEvent(new Event("locked"));
    } finally {
      button.disabled = false;
      button.focus();
    }
  });
}

const labelOf = (id) => document.querySelector(`label[for=${id}]`).textContent;
const passageAt = (index) => `Passage ${index + 1}`;

/** Ask, and call a text in an error as the page calls it: input[1] is "Second text". names: by the body's field. */
async function askAbout(names, path, body) {
  try {
    return await ask(path, body);
  } catch (failure) {
    const [all, field, index] = /^(\w+)(?:\[(\d+)\])?/.exec(failure.param ?? failure.message) ?? [];
    const name = names[field]?.(Number(index ?? 0));
    if (name) failure.message = failure.message.replaceAll(all, name);
    throw failure;
  }
}

/** names: what the page calls the text at an index. */
async function embed(input, names, inputType) {
  const model = chosen();
  const type = inputType && models.prompted.has(model) ? { input_type: inputType } : {};
  const { answer, cache } = await askAbout({ input: names }, "v1/embeddings", { model, input, ...type });
  return { vectors: answer.data.map((item) => item.embedding), cache };
}

/** Vectors have length 1, so their dot product is the cosine. */
const cosine = (one, other) => one.reduce((sum, value, index) => sum + value * other[index], 0);

function bar(share, kind = "") {
  const inner = make("i");
  inner.style.setProperty("--share", `${100 * Math.min(1, Math.max(0, share))}%`);
  return make("div", { class: `bar ${kind}` }, inner);
}

const measure = (name, value, kind) => make("div", { class: "measure" }, make("span", {}, name), bar(value, kind), make("span", {}, value.toFixed(3)));

handle("compare", async () => {
  const { vectors, cache } = await embed([$("text-a").value, $("text-b").value], (index) => labelOf(index ? "text-b" : "text-a"));
  const value = cosine(...vectors);
  const words = make("p", {}, make("b", {}, value.toFixed(3)), make("span", { class: "faint" }, "cosine; 1: same meaning, 0: unrelated"));
  $("compare-result").replaceChildren(make("div", { class: "score" }, words, bar(value)));
  return cache;
});

handle("search", async () => {
  const query = $("query").value;
  const passages = $("passages").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!passages.length) throw new Failure("Enter at least one passage.", 0);
  const late = lacks("dense");
  const [asked, found] = late ? [] : [await embed([query], () => labelOf("query"), "query"), await embed(passages, passageAt, "document")];
  const rows = passages.map((passage, index) => ({ passage, cosine: found && cosine(asked.vectors[0], found.vectors[index]) }));
  const reranked = late || (!$("rerank-line").hidden && $("rerank").checked);
  if (reranked) {
    const model = late ? chosen() : $("reranker").value;
    const { answer } = await askAbout({ query: () => labelOf("query"), documents: passageAt }, "v1/rerank", { model, query, documents: passages, return_documents: false });
    for (const { index, relevance_score } of answer.results) rows[index].relevance = relevance_score;
  }
  rows.sort((one, other) => (reranked ? other.relevance - one.relevance : other.cosine - one.cosine));
  $("search-result").replaceChildren(
    ...rows.map((row) =>
      make(
        "li",
        {},
        make("p", {}, row.passage),
        ...(reranked ? [measure(late ? "MaxSim (mean)" : "reranker", row.relevance)] : []),
        ...(found ? [measure("cosine", row.cosine, reranked ? "second" : "")] : []),
      ),
    ),
  );
  return asked?.cache === "hit" && found.cache === "hit" ? "hit" : "miss";
});

// --- tokens ----------------------------------------------------------------------------------------------------------

const MOST_TOKENS = 64;
const PUNCTUATION = /^[!-/:-@[-`{-~]$/;

/** The tokens' two texts, as an error calls them. */
const TEXTS = ["tokens-a", "tokens-b"];
const tokensLabel = (index) => labelOf(TEXTS[index]);

/** Return the tokens of a text: `text`, and `special` for those that are not in it. role: the prompt around the text. */
async function readTokens(text, name, role) {
  const { answer } = await askAbout({ inputs: () => name }, "tokenize", { model: chosen(), inputs: [text], ...(role ? { prompt_name: role } : {}) });
  return answer[0];
}

/** Return the tokens that were read, where a text was cut: special ones at its end are kept. */
function cutTokens(tokens, count) {
  if (tokens.length <= count) return tokens;
  const end = tokens.length - tokens.findLastIndex((token) => !token.special) - 1;
  return [...tokens.slice(0, count - end), ...tokens.slice(tokens.length - end)];
}

/** Return hidden states of two texts' tokens, divided by their lengths, with the tokens; special tokens are left out. */
async function hiddenStates(texts) {
  const body = { model: chosen(), input: texts, task: "token_embed", truncate: "end", max_tokens: MOST_TOKENS };
  const [read, { answer }] = [await Promise.all(texts.map((text, index) => readTokens(text, tokensLabel(index)))), await askAbout({ input: tokensLabel }, "pooling", body)];
  return answer.data.map(({ data }, index) => {
    const tokens = cutTokens(read[index], data.length);
    const shown = data.map((row, place) => ({ row, token: tokens[place] })).filter(({ token }) => token && !token.special);
    return { rows: shown.map(({ row }) => row), labels: shown.map(({ token }) => token.text), cut: read[index].length > data.length };
  });
}

/** Return a text's vectors for late interaction, with the tokens that they stand for. role: query or document. */
async function lateVectors(text, role) {
  const name = tokensLabel(role === "query" ? 0 : 1);
  const ask_ = (input, type) =>
    askAbout({ input: () => name }, "v1/embeddings", { model: chosen(), input, input_type: type, multi_vector: true, return_dense: false, truncate: "end", max_tokens: MOST_TOKENS });
  // Models differ in the tokens that they add and leave out; a text of one letter shows it.
  const [own, probe] = [await ask_([text], role), await ask_(["a"], "document")];
  const [tokens, letter] = [await readTokens(text, name, role), await readTokens("a", name, "document")];
  const rows = own.answer.data[0].multi_embedding;
  const added = probe.answer.data[0].multi_embedding.length - letter.length;
  const cut = own.answer.truncated?.length > 0;
  const read = cut ? cutTokens(tokens, MOST_TOKENS - Math.max(added, 0)) : tokens; // a marker is one of the tokens
  return { rows, labels: lateLabels(read, rows.length, added, role), cut };
}

/** added: 1 for a model that marks queries and documents, -1 for one that leaves the first token out, -2 the last one, too. */
function lateLabels(tokens, count, added, role) {
  let texts = tokens.filter(({ special }) => added !== -2 || !special).map(({ text }) => text);
  if (added === 1) texts.splice(1, 0, role === "query" ? "[Q]" : "[D]");
  if (added === -1) texts = texts.slice(1);
  // Some models compute no vectors of a document's punctuation, and fill queries with masks.
  if (role === "document" && texts.length > count) texts = texts.filter((text) => !PUNCTUATION.test(text.trim()));
  while (role === "query" && texts.length < count) texts.push("[MASK]");
  return texts.length === count ? texts : Array.from({ length: count }, (_, index) => `${index + 1}`);
}

handle("tokens", async () => {
  const texts = [$("tokens-a").value, $("tokens-b").value];
  const late = computes("multi");
  const [one, other] = late ? [await lateVectors(texts[0], "query"), await lateVectors(texts[1], "document")] : await hiddenStates(texts);
  if (!one.rows.length || !other.rows.length) throw new Failure("A text has no tokens besides special ones.", 0);
  const values = one.rows.map((row) => other.rows.map((each) => cosine(row, each)));
  const best = values.map((row) => Math.max(...row));
  const sum = best.reduce((total, value) => total + value, 0);
  const words = late ? `mean of the best cosines of the query's vectors; their sum (MaxSim) is ${sum.toFixed(2)}` : "mean of the best cosines of the first text's tokens; 1: same meaning in context";
  const cuts = [one, other].some(({ cut }) => cut) ? [make("p", { class: "faint" }, `Of a longer text, only the first ${MOST_TOKENS} tokens are read here.`)] : [];
  $("tokens-result").replaceChildren(
    make("div", { class: "score" }, make("p", {}, make("b", {}, (sum / best.length).toFixed(3)), make("span", { class: "faint" }, words))),
    ...cuts,
    ...heatMap(one.labels, other.labels, values),
  );
});

// --- sparse vectors --------------------------------------------------------------------------------------------------

const MOST_WORDS = 40;

handle("sparse", async () => {
  const text = $("sparse-text").value;
  const body = { model: chosen(), input: [text], sparse: true, sparse_words: true, return_dense: false };
  const { answer, cache } = await askAbout({ input: () => labelOf("sparse-text") }, "v1/embeddings", body);
  const { values, words } = answer.data[0].sparse_embedding;
  const found = words.map((word, index) => ({ word: word.trim() || "␣", weight: values[index] })).sort((one, other) => other.weight - one.weight);
  const heaviest = found[0]?.weight ?? 1;
  const within = text.toLowerCase();
  $("sparse-words").textContent = found.length
    ? `${found.length} tokens have a weight${found.length > MOST_WORDS ? `; these are the ${MOST_WORDS} heaviest` : ""}. Striped: not in the text, added by the model.`
    : "No token has a weight.";
  $("sparse-result").replaceChildren(
    ...found.slice(0, MOST_WORDS).map(({ word, weight }) => {
      const inside = within.includes(word.toLowerCase());
      const name = make("span", {}, word, ...(inside ? [] : [make("span", { class: "unseen" }, " (not in the text)")]));
      return make("li", { class: "measure words" }, name, bar(weight / heaviest, inside ? "" : "added"), make("span", {}, weight.toFixed(3)));
    }),
  );
  return cache;
});

// --- windows of a long text ------------------------------------------------------------------------------------------

handle("windows", async () => {
  const [query, text] = [$("windows-query").value, $("windows-text").value];
  const asked = await embed([query], () => labelOf("windows-query"), "query");
  const type = models.prompted.has(chosen()) ? { input_type: "document" } : {};
  const body = { model: chosen(), input: [text], long_text: "chunks", max_tokens: $("windows-size").valueAsNumber || undefined, ...type };
  const { answer, cache } = await askAbout({ input: () => labelOf("windows-text") }, "v1/embeddings", body);
  const { chunks, embedding } = answer.data[0];
  const characters = Array.from(text); // places count characters, and strings of this language count some twice
  const values = chunks.map((chunk) => cosine(asked.vectors[0], chunk.embedding));
  const best = values.indexOf(Math.max(...values));
  $("windows-words").textContent = `${chunks.length} window${chunks.length > 1 ? "s" : ""}. The whole text, as the mean of its windows, has the cosine ${cosine(asked.vectors[0], embedding).toFixed(3)}.`;
  $("windows-result").replaceChildren(
    ...chunks.map(({ start, end, tokens }, index) => {
      const place = `characters ${start} to ${end}, ${tokens} tokens${index === best ? ", the best" : ""}`;
      const part = make("p", {}, characters.slice(start, end).join(""));
      return make("li", index === best ? { class: "best" } : {}, measure("cosine", values[index]), part, make("p", { class: "faint" }, place));
    }),
  );
  return asked.cache === "hit" && cache === "hit" ? "hit" : "miss";
});

// --- what the chosen model computes ----------------------------------------------------------------------------------

/** Show the forms that fit the chosen model, and say why one does not. */
function showForms() {
  const missing = lacks("sparse");
  $("compare").hidden = $("windows").hidden = lacks("dense");
  $("search").hidden = lacks("dense") && !computes("multi");
  $("rerank").closest(".line").classList.toggle("unused", lacks("dense"));
  $("dense-missing").textContent = lacks("dense") ? `${chosen()} has no dense vectors, and so no cosine of whole texts.` : "";
  $("sparse-fields").hidden = missing;
  $("sparse-missing").textContent = missing ? `${chosen()} has no sparse vectors. Models such as SPLADE and bge-m3 have them.` : "";
  $("tokens-kind").textContent = computes("multi")
    ? "The vectors that this model compares in late interaction: each of the query finds its best match."
    : "The last hidden states of the tokens, compared by their cosine.";
}
$("embedder").addEventListener("change", () => {
  showForms();
  // What is shown is of another model.
  clear("#playground ");
});
