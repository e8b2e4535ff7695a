// Connect: for each program, what to enter where, and a test that sends what the program would send. The recipes are data, in
// recipes.json.

import { $, Failure, KEY, announce, ask, make, marked } from "./page.js";

const CONTAINER_HOST = "host.docker.internal";
const TEST_MS = 60000;
/** Characters of a token, at least, in most languages: texts of so many times the model's tokens fit. */
const CHARACTERS = 3;

let recipes = [];
let models = [];
/** What the tests showed, by program; kept when the cards are drawn again, as when a model has been loaded. */
const results = new Map();
let drawn = "";

/** models: as GET /v1/models lists them. Called when they are known, or others. */
export async function setConnect(found) {
  if (!recipes.length) recipes = (await ask("recipes.json")).answer.recipes;
  models = found.filter((model) => model.task === "embed");
  const before = $("connect-model").value;
  $("connect-model").replaceChildren(...models.map(({ id }) => make("option", {}, id)));
  if (models.some(({ id }) => id === before)) $("connect-model").value = before;
  show();
}

// --- values of the placeholders --------------------------------------------------------------------------------------

/** The daemon's address as the program has to write it, which may run elsewhere than this browser. */
function address() {
  const url = new URL(".", document.baseURI);
  const local = /^(localhost|127\..*|\[::1\])$/.test(url.hostname);
  // URL takes no placeholder for a name.
  const host = { container: local ? CONTAINER_HOST : url.hostname, other: local ? "ADDRESS_OF_THIS_COMPUTER" : url.hostname }[$("connect-place").value] ?? url.hostname;
  return `${url.protocol}//${host}${url.port ? `:${url.port}` : ""}${url.pathname.replace(/\/$/, "")}`;
}

function values() {
  const id = $("connect-model").value;
  const model = models.find((each) => each.id === id);
  const keyed = sessionStorage.getItem(KEY) !== null;
  return {
    root: address(),
    base: `${address()}/v1`,
    port: location.port || { "http:": "80", "https:": "443" }[location.protocol],
    model: id || "MODEL",
    key: $("connect-key").value || (keyed ? "YOUR_KEY" : "unused"),
    dimensions: String(model?.dimensions ?? "as many as the model has"),
    characters: model?.context_tokens ? String(CHARACTERS * model.context_tokens) : "1500",
    bearer: keyed || $("connect-key").value,
  };
}

const single = (text) => `'${text.replaceAll("'", "'\\''")}'`;
/** How a text is written in each language. JSON's strings are strings of YAML, TOML, Python and JavaScript, too. */
const QUOTED = {
  sh: (text) => (/^[\w.:/@-]+$/.test(text) ? text : single(text)),
  env: (text) => (/^[\w.:/@-]+$/.test(text) ? text : JSON.stringify(text)),
};

/** Return a recipe's code with its values. */
function fill(recipe, known) {
  const quote = QUOTED[recipe.language] ?? JSON.stringify;
  const parts = {
    ...Object.fromEntries(["root", "base", "port", "model", "key"].map((name) => [name, quote(known[name])])),
    body: recipe.body && single(JSON.stringify(insert(recipe.body, known))),
    bearer: known.bearer ? ` \\\n  -H ${single(`authorization: Bearer ${known.key}`)}` : "",
  };
  return replaced(recipe.code.join("\n"), parts);
}

/** Replace the placeholders, in one go: a value may look like one. */
const replaced = (text, known) => text.replace(/\{(\w+)\}/g, (all, name) => (name in known ? known[name] : all));

/** Return JSON with values in its strings. */
function insert(part, known) {
  if (typeof part === "string") return replaced(part, known);
  if (Array.isArray(part)) return part.map((each) => insert(each, known));
  if (part === null || typeof part !== "object") return part;
  return Object.fromEntries(Object.entries(part).map(([name, value]) => [name, insert(value, known)]));
}

// --- the cards -------------------------------------------------------------------------------------------------------

function show() {
  const known = values();
  const keyed = sessionStorage.getItem(KEY) !== null;
  const now = JSON.stringify([known, keyed, $("connect-place").value]);
  if (now === drawn) return;
  drawn = now;
  $("connect-key-line").hidden = !keyed;
  $("connect-words").replaceChildren("Every client of the OpenAI embeddings API works with the base URL ", make("code", {}, known.base), ", clients of Ollama with ", make("code", {}, known.root), ".");
  $("connect-place-words").replaceChildren(...marked(placeWords()));
  const kinds = Map.groupBy ? Map.groupBy(recipes, ({ kind }) => kind) : grouped(recipes);
  $("snippets").replaceChildren(
    ...[...kinds].flatMap(([kind, found]) => [make("h3", { class: "kind" }, kind), make("div", { class: "cards wide" }, ...found.map((recipe) => card(recipe, known)))]),
  );
  search();
}

/** Show the recipes only that have what is searched for in their name or kind. */
function search() {
  const words = $("connect-search").value.trim().toLowerCase();
  for (const kind of document.querySelectorAll("#snippets .kind")) {
    const cards = [...kind.nextElementSibling.children];
    for (const each of cards) each.hidden = !`${each.dataset.program} ${kind.textContent}`.toLowerCase().includes(words);
    kind.hidden = kind.nextElementSibling.hidden = cards.every((each) => each.hidden);
  }
  const found = document.querySelectorAll("#snippets .recipe:not([hidden])").length;
  $("connect-none").hidden = found > 0 || !recipes.length;
}

function grouped(found) {
  const kinds = new Map();
  for (const recipe of found) kinds.set(recipe.kind, [...(kinds.get(recipe.kind) ?? []), recipe]);
  return kinds;
}

function placeWords() {
  const place = $("connect-place").value;
  if (!place) return "";
  const reach = "The daemon must listen beyond this computer: `edgeembed config set api_key KEY` and `edgeembed config set host 0.0.0.0`, then restart it.";
  if (place === "other") return `${reach} Other computers reach it by this computer's name or address.`;
  return `${reach} In a container, localhost is the container itself. On Linux, Docker needs \`--add-host=${CONTAINER_HOST}:host-gateway\`, compose \`extra_hosts: ["${CONTAINER_HOST}:host-gateway"]\`.`;
}

function card(recipe, known) {
  const { program } = recipe;
  const result = results.get(program) ?? make("p", { class: "result", role: "status" });
  results.set(program, result);
  const buttons = make("div", { class: "buttons" });
  if (recipe.test) {
    const button = make("button", { type: "button", class: "quiet", "aria-label": `Test: ${program}` }, "Test");
    button.addEventListener("click", () => test(recipe, button, result));
    buttons.append(button);
  }
  const element = make("article", { class: "card recipe", "data-program": program, "aria-label": program });
  element.append(make("div", { class: "head" }, make("h4", {}, program), buttons), make("p", { class: "faint" }, ...marked(replaced(recipe.where, known))));
  if (recipe.container && !$("connect-place").value) {
    element.append(make("p", { class: "faint" }, "If it runs in a container, choose that above: there, this address is the container itself."));
  }
  if (recipe.tools && $("connect-place").value) element.append(make("p", { class: "faint" }, "The tools run where the daemon runs: on this computer."));
  if (recipe.keyless && known.bearer) element.append(make("p", { class: "why" }, "It cannot send an API key, which this daemon requires."));
  element.append(...(recipe.code ? codeBlock(recipe, known, buttons) : [fieldList(recipe, known)]), result);
  return element;
}

function codeBlock(recipe, known, buttons) {
  const block = make("code", { "data-language": recipe.language }, fill(recipe, known));
  buttons.prepend(copyButton(`Copy: ${recipe.program}`, block));
  // It scrolls sideways on narrow screens, so it must be reachable by keyboard.
  return [make("pre", { tabindex: "0", role: "region", "aria-label": `Code for ${recipe.program}` }, block)];
}

function fieldList(recipe, known) {
  const rows = recipe.fields.map(([name, value]) => {
    const filled = replaced(value, known);
    const text = make("code", {}, filled);
    const own = value.includes("{") ? [copyButton(`Copy ${name}: ${recipe.program}`, text)] : [];
    return make("div", {}, make("dt", {}, name), make("dd", {}, text, ...own));
  });
  return make("dl", { class: "entries" }, ...rows);
}

function copyButton(label, block) {
  const button = make("button", { type: "button", class: "quiet", "aria-label": label }, "Copy");
  button.addEventListener("click", () => copy(button, block));
  return button;
}

async function copy(button, block) {
  try {
    await navigator.clipboard.writeText(block.textContent);
    button.textContent = "Copied";
  } catch {
    // Without HTTPS, pages from other machines have no clipboard: select the text, so that the user can copy it.
    getSelection().selectAllChildren(block);
    button.textContent = "Press Ctrl-C";
  }
  announce(button.textContent);
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

// --- the test --------------------------------------------------------------------------------------------------------

/** Send what the program would send, and show how many numbers came back in what time, or what to do. */
async function test(recipe, button, result) {
  const known = values();
  result.className = "result";
  result.textContent = "asking …";
  button.disabled = true;
  try {
    const began = performance.now();
    let count = 0;
    for (const { path, body, vector } of recipe.test) {
      const { answer } = await ask(path, body && insert(body, known), AbortSignal.timeout(TEST_MS));
      if (vector) count = lengthOf(vector.reduce((part, step) => part?.[step], answer));
    }
    const took = performance.now() - began;
    if (!count) throw new Failure("The daemon's answer has no vector.", 0);
    const problem = await obstacle(recipe, known);
    result.classList.add(problem ? "why" : "good");
    const words = `${problem ? "Answers" : "Works"}: ${count} numbers in ${took < 10 ? took.toFixed(1) : Math.round(took)} ms. ${problem}`;
    result.replaceChildren(...marked(words.trim()));
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    result.classList.add("error");
    result.replaceChildren(...marked(failure.message));
    if (failure.status === 401) dispatchEvent(new Event("locked"));
  } finally {
    button.disabled = false;
    button.focus();
  }
}

/** The numbers of a vector, which may be base64 of 4 bytes each. */
const lengthOf = (found) => (typeof found === "string" ? atob(found).length / 4 : Array.isArray(found) ? found.length : 0);

/** Return what still keeps the program away, though this browser is answered; an empty text if nothing does. */
async function obstacle(recipe, known) {
  const { answer } = await ask("v1/status", undefined, AbortSignal.timeout(TEST_MS));
  if ($("connect-place").value && answer.loopback_only) {
    return "But the daemon listens on this computer only, so the program does not reach it: see above.";
  }
  if (recipe.keyless && known.bearer) return "But the program cannot send the API key.";
  if (recipe.names && !new RegExp(recipe.names, "i").test(known.model)) {
    return `But the program lists only names that contain ${recipe.names.replace("|", " or ")}. Give ${known.model} such a name, too, under Settings, Aliases, and choose it above.`;
  }
  if (recipe.origin && !(await admits(recipe.origin))) {
    return `But its window (${recipe.origin}) is not let in. Allow desktop apps under Settings, Apps and pages.`;
  }
  return "";
}

/** Return whether windows of an origin may use the daemon, as far as this page may know. */
async function admits(origin) {
  try {
    const { answer } = await ask("v1/admin/origins", undefined, AbortSignal.timeout(TEST_MS));
    return answer.desktop_apps || answer.origins.includes(origin);
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    return true;
  }
}

/** Show other values: what was tested is not what is shown. */
function change() {
  results.clear();
  show();
}
for (const id of ["connect-model", "connect-place"]) $(id).addEventListener("change", change);
$("connect-key").addEventListener("input", change);
$("connect-search").addEventListener("input", search);
