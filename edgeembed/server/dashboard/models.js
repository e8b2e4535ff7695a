// The tab Models: what is installed and what the catalogue offers; downloads; load, unload, default, delete.

import { $, announce, ask, bytes, make, whole } from "./page.js";
import { Actions, button, confirmed, onButtons, pill, redraw, tag, watch } from "./manage.js";

const BUSY_MS = 1500;
const IDLE_MS = 10_000;

let shown = null;
let order = [];
const opened = new Set();
const announced = new Map();
const actions = new Actions(() => shown && draw(shown));

// --- words -----------------------------------------------------------------------------------------------------------

const languageNames = new Intl.DisplayNames(["en"], { type: "language" });

function languageName(code) {
  try {
    return languageNames.of(code);
  } catch {
    return code; // such as "multilingual"
  }
}

const list = (value) => (Array.isArray(value) ? value : value ? [value] : []);
const TASKS = { rerank: ["reranking"], classify: ["classification"] };
/** Return what a model is for: in the catalogue's words, or else by its task. */
function purposes(model) {
  const found = list(model.purposes).flatMap((words) => words.split(/,\s*/));
  return found.length ? found : (TASKS[model.task] ?? []);
}
const installed = (model) => model.types.some((type) => type.installed);
const plain = (name) => name.replace("LicenseRef-", "");
const spoken = (model, type) => `${model.name} ${type.type}`;

/** What a row is about: a pull goes by its name in lower case. */
const id = (spec) => spec.toLowerCase();

function share(pull) {
  return pull.total_bytes ? Math.min(1, pull.done_bytes / pull.total_bytes) : null;
}

function left(pull) {
  const seconds = pull.bytes_per_second ? (pull.total_bytes - pull.done_bytes) / pull.bytes_per_second : 0;
  if (!(seconds > 1)) return "";
  return seconds < 90 ? `, about ${Math.ceil(seconds)} s left` : `, about ${Math.ceil(seconds / 60)} min left`;
}

function progressWords(pull) {
  if (pull.state === "failed") return "";
  const size = pull.total_bytes ? `${bytes(pull.done_bytes)} of ${bytes(pull.total_bytes)}` : "";
  if (pull.state === "paused") return size ? `Paused at ${size}` : "Paused";
  if (pull.state === "waiting") return pull.message || "Starting";
  const speed = pull.bytes_per_second ? `, ${bytes(pull.bytes_per_second)}/s` : "";
  return [pull.what || pull.message || "Starting", size && `${size}${speed}${left(pull)}`].filter(Boolean).join(": ");
}

/** Tell screen readers of each quarter, and of the end. */
function tell(pull) {
  const step = pull.state === "running" ? Math.floor(4 * (share(pull) ?? 0)) : pull.state;
  const before = announced.get(pull.spec);
  announced.set(pull.spec, step);
  if (before === undefined || before === step) return;
  if (pull.state === "done") {
    announce(`${pull.installed ?? pull.spec} is installed`);
    dispatchEvent(new Event("changed"));
  } else if (pull.state === "failed") announce(`The download of ${pull.spec} failed`);
  else if (pull.state === "running" && step > 0 && step < 4) announce(`${pull.spec}: ${25 * step} per cent`);
}

// --- a type of a model -----------------------------------------------------------------------------------------------

function pullView(pull, name) {
  const busy = actions.busy.has(id(pull.spec));
  const running = pull.state === "running" || pull.state === "waiting";
  const bar = make("progress", { "aria-label": `Download of ${name}`, max: "1" });
  const part = share(pull);
  if (part !== null) bar.setAttribute("value", part.toFixed(3));
  else if (!running) bar.setAttribute("value", "0");
  const view = make("div", { class: "pull", "data-key": "pull" });
  if (pull.state !== "failed") view.append(bar, make("p", { class: "faint" }, progressWords(pull)));
  else view.append(make("p", { class: "error" }, pull.error || "The download failed."));
  view.append(
    make(
      "div",
      { class: "buttons" },
      running
        ? button("pull-pause", "Pause", `Pause the download of ${name}`, { busy })
        : button(
            "pull",
            pull.state === "failed" ? "Try again" : "Resume",
            `${pull.state === "failed" ? "Try again to download" : "Resume the download of"} ${name}`,
            { busy },
          ),
      pull.state === "failed"
        ? button("pull-cancel", "Dismiss", `Dismiss the download of ${name}`, { busy })
        : button("pull-cancel", "Cancel", `Cancel the download of ${name}`, { busy }),
    ),
  );
  return view;
}

const FITS = { yes: ["good", "fits"], partly: ["warn", "fits partly"], no: ["bad", "too large"] };

function speedWords(type) {
  const [value, unit] = type.texts_per_second ? [type.texts_per_second, "texts"] : [type.tokens_per_second, "tokens"];
  return value ? `${whole.format(Math.round(value))} ${unit} a second here` : "";
}

function typeFacts(type) {
  const fit = FITS[type.fits];
  const words = type.fits === "yes" ? fit[1] : `${fit?.[1]}: ${type.fits_words}`;
  const facts = [make("span", {}, type.file_bytes ? `${bytes(type.file_bytes)} file` : "size unknown")];
  if (type.memory_bytes && (!fit || type.fits === "yes" || type.installed))
    facts.push(make("span", {}, `${bytes(type.memory_bytes)} of memory`));
  if (fit) facts.push(make("span", { class: "fit", "data-state": fit[0], title: type.fits_words }, words));
  if (!type.installed && type.file_bytes > shown.disk_free_bytes) {
    facts.push(make("span", { class: "fit", "data-state": "bad" }, "more than is free on the disk"));
  }
  if (speedWords(type)) facts.push(make("span", {}, speedWords(type)));
  return make("div", { class: "type-facts" }, ...facts);
}

function typeButtons(model, type) {
  const name = spoken(model, type);
  const verb = actions.busy.get(id(type.spec));
  const busy = verb !== undefined;
  const words = (action, usual, during) => (verb === action ? during : usual);
  if (!type.installed)
    return [button("pull", words("pull", "Download", "Starting…"), `Download ${name}`, { quiet: type.type !== model.default_type, busy })];
  const found = [];
  if (type.damage)
    found.push(button("pull", words("pull", "Download again", "Starting…"), `Download again: ${name}`, { quiet: false, busy }));
  else if (type.state === "loaded" || type.state === "unloading")
    found.push(button("unload", words("unload", "Unload", "Unloading…"), `Unload ${name}`, { busy: busy || type.state === "unloading" }));
  else
    found.push(
      button("load", type.state === "loading" || verb === "load" ? "Loading…" : "Load", `Load ${name}`, {
        busy: busy || type.state === "loading",
      }),
    );
  // Requests without a model's name ask for vectors nearly always. Those for scores find the only reranker by themselves.
  if (!type.default && !type.damage && model.task === "embed")
    found.push(button("default", words("default", "Set as default", "Setting…"), `Set as default: ${name}`, { busy }));
  if (type.removable) found.push(button("delete", words("delete", "Delete", "Deleting…"), `Delete ${name}`, { busy }));
  return found;
}

function typeRow(model, type, pull) {
  const states = {
    loaded: ["good", "loaded"],
    loading: ["wait", "loading"],
    unloading: ["wait", "unloading"],
    failed: ["bad", "failed"],
    installed: ["wait", "installed"],
  };
  const state = type.damage ? ["bad", "damaged"] : states[type.state];
  const row = make(
    "li",
    { class: "type", "data-key": id(type.spec), "data-row": id(type.spec) },
    make(
      "div",
      { class: "type-name" },
      make("b", {}, type.type),
      ...(state ? [pill(...state)] : []),
      ...(type.default ? [tag("default")] : []),
      ...(type.pinned ? [tag("pinned")] : []),
    ),
    typeFacts(type),
  );
  if (pull) row.append(pullView(pull, spoken(model, type)));
  else row.append(make("div", { class: "buttons" }, ...typeButtons(model, type)));
  for (const words of [type.damage, type.reason]) if (words) row.append(make("p", { class: "why" }, words));
  row.append(...actions.problem(id(type.spec)));
  if (notes.has(id(type.spec))) row.append(make("p", { class: "why", role: "status" }, notes.get(id(type.spec))));
  return row;
}

// --- a model ---------------------------------------------------------------------------------------------------------

/** Return the types that are always shown: those on this machine or on their way, else the suggested one. */
function firstTypes(model, pulls) {
  const found = model.types.filter((type) => type.installed || pulls.has(id(type.spec)) || actions.errors.has(id(type.spec)));
  const suggested = model.types.find((type) => type.type === model.default_type) ?? model.types.find((type) => type.type === "Q8_0");
  return found.length ? found : [suggested ?? model.types[0]].filter(Boolean);
}

function modelCard(model, pulls) {
  const first = firstTypes(model, pulls);
  const more = model.types.filter((type) => !first.includes(type));
  const row = (type) => typeRow(model, type, pulls.get(id(type.spec)));
  const languages = list(model.languages);
  const facts = [
    model.parameters && `${compact.format(model.parameters)} parameters`,
    model.dimensions && `${whole.format(model.dimensions)} dimensions`,
    model.context && `${whole.format(model.context)} tokens a text`,
    languages.length > 3 ? `${languages.length} languages` : languages.map(languageName).join(", "),
    model.license && plain(model.license),
  ];
  const card = make(
    "li",
    { class: "card model", "data-key": model.name },
    make("h3", {}, model.name),
    make("p", { class: "faint" }, facts.filter(Boolean).join(" · ")),
  );
  if (purposes(model).length) card.append(make("div", { class: "tags" }, ...purposes(model).map(tag)));
  if (model.summary) card.append(make("p", { class: "summary" }, model.summary));
  card.append(make("ul", { class: "types", "aria-label": `${model.name}, types` }, ...first.map(row)));
  if (more.length) {
    const open = opened.has(model.name);
    const words = `${more.length} more ${more.length === 1 ? "type" : "types"}`;
    const toggle = make(
      "button",
      {
        type: "button",
        class: "link",
        "data-do": "more",
        "data-key": "more",
        "aria-expanded": String(open),
        "aria-label": `${open ? "Fewer types" : words} of ${model.name}`,
      },
      open ? "Fewer types" : words,
    );
    card.append(make("div", { "data-row": `more ${model.name}`, "data-key": "toggle" }, toggle));
    if (open)
      card.append(make("ul", { class: "types", "data-key": "others", "aria-label": `${model.name}, further types` }, ...more.map(row)));
  }
  return card;
}
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

// --- the list --------------------------------------------------------------------------------------------------------

const notes = new Map();

function matches(model) {
  const words = $("library-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [
    model.name,
    model.summary,
    ...purposes(model),
    ...list(model.languages).flatMap((code) => [code, languageName(code)]),
    model.license,
  ]
    .join(" ")
    .toLowerCase();
  const [purpose, language, which] = ["library-purpose", "library-language", "library-which"].map((name) => $(name).value);
  return (
    words.every((word) => text.includes(word)) &&
    (!purpose || purposes(model).includes(purpose)) &&
    (!language || list(model.languages).includes(language)) &&
    (which === "" ||
      (which === "installed" ? installed(model) : which === "fits" ? model.types.some((type) => type.fits === "yes") : !installed(model)))
  );
}

/** Keep the order in which models were shown, so that no row moves away from under the pointer; new ones come first. */
function inOrder(models) {
  const rank = (model) => (model.types.some((type) => type.default) ? 0 : installed(model) ? 1 : 2);
  const known = new Map(order.map((name, index) => [name, index]));
  const place = (model) => known.get(model.name) ?? -1;
  const sorted = [...models].sort(
    (a, b) => place(a) - place(b) || rank(a) - rank(b) || a.name.localeCompare(b.name, "en", { numeric: true }),
  );
  order = sorted.map((model) => model.name);
  return sorted;
}

function options(name, first, values, words = (value) => value) {
  const before = $(name).value;
  const sorted = [...new Set(values)].sort((a, b) => words(a).localeCompare(words(b)));
  redraw($(name), [
    make("option", { value: "", "data-key": "" }, first),
    ...sorted.map((value) => make("option", { value, "data-key": value }, words(value))),
  ]);
  $(name).value = sorted.includes(before) ? before : "";
}

function draw(answer) {
  shown = answer;
  const free = answer.disk_free_bytes == null ? "" : `${bytes(answer.disk_free_bytes)} free on disk`;
  const used = `${answer.models_bytes ? `models take ${bytes(answer.models_bytes)}` : "models are kept"} in ${answer.folder}`;
  const memory = answer.memory_budget_bytes
    ? `loaded ones take ${bytes(answer.memory_bytes)} of ${bytes(answer.memory_budget_bytes)} of memory`
    : "";
  $("library-disk").textContent = [free, used, memory].filter(Boolean).join(" · ");
  options("library-purpose", "Any purpose", answer.models.flatMap(purposes));
  options(
    "library-language",
    "Any language",
    answer.models.flatMap((model) => list(model.languages)),
    languageName,
  );

  const pulls = new Map();
  for (const pull of answer.pulls) {
    tell(pull);
    if (pull.state !== "done") pulls.set(id(pull.spec), pull);
  }
  const found = inOrder(answer.models).filter(matches);
  const visible = new Set(found.flatMap((model) => model.types.map((type) => id(type.spec))));
  const others = [...pulls.entries()].filter(([spec]) => !visible.has(spec));
  $("pulls-section").hidden = !others.length;
  redraw(
    $("pulls"),
    others.map(([spec, pull]) =>
      make(
        "li",
        { class: "type", "data-key": spec, "data-row": spec },
        make("div", { class: "type-name" }, make("b", {}, pull.spec)),
        pullView(pull, pull.spec),
        ...actions.problem(spec),
      ),
    ),
  );
  const total = answer.models.length;
  const count = found.length === total ? `${total} ${total === 1 ? "model" : "models"}` : `${found.length} of ${total} models`;
  if ($("library-count").textContent !== count) $("library-count").textContent = count;
  const none = total ? "No model matches. Change the search or the filters." : "No models are known.";
  redraw(
    $("library-list"),
    found.length ? found.map((model) => modelCard(model, pulls)) : [make("li", { class: "empty", "data-key": "" }, none)],
  );
  $("pull-error").textContent = actions.errors.get("other") ?? "";
}

function wait() {
  const moving = shown.pulls.some((pull) => pull.state === "running" || pull.state === "waiting");
  const loading = shown.models.some((model) => model.types.some((type) => type.state === "loading"));
  return moving || loading ? BUSY_MS : IDLE_MS;
}

const reload = watch($("library"), async () => (await ask("v1/admin/models")).answer, draw, wait);

// --- what the user does ----------------------------------------------------------------------------------------------

const ROUTES = {
  pull: "pull",
  "pull-pause": "pull/pause",
  "pull-cancel": "pull/cancel",
  load: "load",
  unload: "unload",
  default: "default",
  delete: "delete",
};
const DONE = {
  load: "loaded",
  unload: "unloaded",
  default: "is the default model",
  delete: "deleted",
  "pull-pause": "Download paused",
  "pull-cancel": "Download cancelled",
  pull: "Download started",
};

function named(row) {
  for (const model of shown.models) {
    const type = model.types.find((one) => id(one.spec) === row);
    if (type) return { spec: type.spec, type, name: spoken(model, type) };
  }
  const pull = shown.pulls.find((one) => id(one.spec) === row);
  return { spec: pull?.spec ?? row, type: null, name: pull?.spec ?? row };
}

async function act(action, row) {
  if (action === "more") {
    const model = row.slice("more ".length);
    if (!opened.delete(model)) opened.add(model);
    draw(shown);
    return;
  }
  const { spec, type, name } = named(row);
  if (action === "delete") {
    const size = type?.file_bytes ? `Its file of ${bytes(type.file_bytes)} is removed from the disk. ` : "";
    if (!(await confirmed(`Delete ${name}?`, `${size}It can be downloaded again.`, "Delete"))) return;
  }
  notes.delete(row);
  const answer = await actions.run(row, action, `v1/admin/models/${ROUTES[action]}`, { model: spec }, `${name}: ${DONE[action]}`);
  if (answer && action === "pull") announced.set(answer.spec, 0);
  if (answer) {
    const note = answer.types?.find((one) => id(one.spec) === row)?.note;
    if (note) notes.set(row, note);
    if (!action.startsWith("pull")) dispatchEvent(new Event("changed"));
  }
  await reload();
}

onButtons($("library-open"), act);

let filtering = 0;

function filter() {
  order = [];
  cancelAnimationFrame(filtering);
  filtering = requestAnimationFrame(() => shown && draw(shown));
}
// Not everything that changes a select sends both.
for (const event of ["input", "change"]) $("library-filters").addEventListener(event, filter);
$("library-filters").addEventListener("submit", (event) => event.preventDefault());

/** Return what the user means: a model of the list by its name alone, or one of the hub, also by an address copied there. */
function meant(name) {
  const known = shown?.models.find((model) => model.in_catalogue && id(model.name) === id(name));
  if (known) return `${known.name}:${known.default_type}`;
  const repository = name.replace(/^(https?:\/\/)?(www\.)?(huggingface\.co|hf\.co)\//i, "hf:");
  return /^[\w-][\w.-]*\/[\w.-]+(:[\w.-]+)?$/.test(repository) ? `hf:${repository}` : repository;
}

$("pull-other").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = $("pull-name").value.trim();
  if (!name) return;
  const answer = await actions.run("other", "pull", "v1/admin/models/pull", { model: meant(name) }, `${name}: Download started`);
  if (answer) {
    announced.set(answer.spec, 0);
    $("pull-other").reset();
  }
  await reload();
});
