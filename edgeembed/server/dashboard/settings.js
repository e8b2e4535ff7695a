// The tab Settings: settings with their sources, API keys, allowed apps and pages, aliases, what the cache holds.

import { $, Failure, KEY, announce, ask, bytes, make, whole } from "./page.js";
import { Actions, advice, button, confirmed, onButtons, redraw, tag, watch } from "./manage.js";

const RESTART_MS = 90_000;
/** The row of the whole cache; no model has this name. */
const ALL = "*";

let shown = null;
let editing = null;
/** What the daemon said about the last change of a list, such as that a flag goes before it. */
const notes = new Map();
const actions = new Actions(() => shown && draw(shown));

// --- values ----------------------------------------------------------------------------------------------------------

function words(setting, value) {
  if (setting.secret) return setting.is_set ? "set, not shown" : "not set";
  if (value === null || value === "") return "not set";
  if (typeof value === "boolean") return value ? "on" : "off";
  if (Array.isArray(value)) return value.length ? value.join(", ") : "none";
  if (typeof value === "object") {
    const pairs = Object.entries(value).map(([name, one]) => `${name} = ${one}`);
    return pairs.length ? pairs.join(", ") : "none";
  }
  return String(value);
}

function typed(setting, text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  if (setting.kind === "boolean") return text === "true";
  if (setting.kind === "integer" || setting.kind === "number") return text.trim() === "" ? text : Number(text);
  if (setting.kind === "list") return lines;
  if (setting.kind === "table") {
    return Object.fromEntries(lines.map((line) => [line.split("=")[0].trim(), line.split("=").slice(1).join("=").trim()]));
  }
  return text;
}

function field(setting) {
  const value = setting.written ?? setting.value;
  const label = { id: `edit-${setting.name}`, "data-key": "field", spellcheck: "false", autocomplete: "off", "aria-describedby": `about-${setting.name}` };
  const choices = setting.kind === "boolean" ? ["true", "false"] : setting.choices;
  if (choices) {
    const option = (one) => make("option", { value: one, ...(String(value) === one ? { selected: "" } : {}) }, setting.kind === "boolean" ? (one === "true" ? "on" : "off") : one);
    return make("select", { ...label }, ...choices.map(option));
  }
  if (setting.kind === "list") return make("textarea", { rows: "3", ...label }, (value ?? []).join("\n"));
  if (setting.kind === "table") return make("textarea", { rows: "3", ...label }, Object.entries(value ?? {}).map(([name, one]) => `${name}=${one}`).join("\n"));
  if (setting.secret) return make("input", { type: "password", ...label, autocomplete: "new-password" });
  const limits = { ...(setting.minimum == null ? {} : { min: setting.minimum }), ...(setting.maximum == null ? {} : { max: setting.maximum }) };
  const number = setting.kind === "integer" || setting.kind === "number";
  return make("input", { ...(number ? { type: "number", step: setting.kind === "integer" ? "1" : "any", ...limits } : {}), value: value ?? "", ...label });
}

const HOW = { list: "One a line.", table: "One a line, as NAME=VALUE." };
const SOURCES = { flag: "from a flag of the command line", variable: "from a variable of the environment", "config.toml": "from config.toml" };

// --- all settings ----------------------------------------------------------------------------------------------------

function settingRow(setting) {
  const name = setting.name;
  const row = `setting ${name}`;
  const busy = actions.busy.has(row);
  const tags = [...(SOURCES[setting.source] ? [tag(SOURCES[setting.source])] : []), ...(setting.restart_needed ? [make("span", { class: "tag warn" }, "waits for a restart")] : [])];
  const view = make(
    "li",
    { class: "setting", "data-key": name, "data-row": row },
    make("div", { class: "head" }, make("code", { class: "name" }, name), make("div", { class: "tags" }, ...tags)),
    make("p", { class: "faint", id: `about-${name}` }, [setting.description, editing === name ? HOW[setting.kind] : ""].filter(Boolean).join(" ")),
  );
  if (setting.note) view.append(make("p", { class: "why" }, setting.note));
  if (editing === name) {
    view.append(
      make(
        "form",
        { class: "line", "data-key": "form", "data-setting": name },
        make("label", { for: `edit-${name}` }, "Value"),
        field(setting),
        make("button", { type: "submit", "data-key": "save", "data-do": "save", "aria-label": `Save ${name}`, ...(busy ? { "aria-disabled": "true" } : {}) }, busy ? "Saving…" : "Save"),
        button("cancel", "Cancel", `Cancel the change of ${name}`),
      ),
    );
  } else {
    const value = make("div", { class: "line", "data-key": "value" }, make("code", { class: "value" }, words(setting, setting.value)));
    if (setting.restart_needed && !setting.secret) value.append(make("span", { class: "faint" }, `after a restart: ${words(setting, setting.written ?? setting.default)}`));
    value.append(make("div", { class: "buttons" }, button("edit", "Edit", `Edit ${name}`, { busy }), ...(isWritten(setting) ? [button("unset", "Unset", `Unset ${name}, so that it has its default`, { busy })] : [])));
    view.append(value);
  }
  view.append(...actions.problem(row));
  return view;
}

const isWritten = (setting) => setting.written !== null || (setting.secret && setting.source === "config.toml");

function drawSettings({ file, restart_needed, settings }) {
  $("settings-file").textContent = `Written to ${file}. A flag or a variable goes before it.`;
  if (!restarting) {
    $("restart").hidden = !restart_needed;
    const say = restart_needed ? "Some changes take effect when the daemon is started again." : "";
    if ($("restart-words").textContent !== say) $("restart-words").textContent = say;
  }
  const sought = $("settings-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const which = $("settings-which").value;
  const found = settings.filter((setting) => {
    const text = `${setting.name} ${setting.name.replaceAll("_", " ")} ${setting.description}`.toLowerCase();
    const chosen = which === "set" ? setting.source !== "default" : which === "restart" ? setting.restart_needed : true;
    return setting.name === editing || (chosen && sought.every((word) => text.includes(word)));
  });
  const count = found.length === settings.length ? `${settings.length} settings` : `${found.length} of ${settings.length} settings`;
  if ($("settings-count").textContent !== count) $("settings-count").textContent = count;
  redraw($("settings-list"), found.length ? found.map(settingRow) : [make("li", { class: "faint", "data-key": "" }, "No setting matches. Change the search or the filter.")]);
}

// --- keys, origins, aliases, cache -----------------------------------------------------------------------------------

/** Return a row: its words, and a button that removes it, or why there is none. */
function plainRow(list, name, parts, remove, why = "") {
  const row = `${list} ${name}`;
  const view = make("li", { class: "plain", "data-key": name, "data-row": row }, make("div", { class: "words" }, ...parts));
  if (remove) view.append(button(remove.action, remove.words, remove.name, { busy: actions.busy.has(row) }));
  else if (why) view.append(make("span", { class: "faint" }, why));
  view.append(...actions.problem(row));
  return view;
}

const none = (words) => [make("li", { class: "faint", "data-key": "" }, words)];
const code = (words) => make("code", {}, words);

function drawKeys({ keys }) {
  const open = "No keys: every program of this machine may use and manage the daemon, and nobody else.";
  $("keys-words").textContent = keys.length ? "Who has one of these keys may use and manage the daemon." : open;
  const rows = keys.map((key) =>
    plainRow("key", key.name, [make("b", {}, key.name), make("span", { class: "faint" }, key.source)], key.removable && { action: "key-remove", words: "Remove", name: `Remove the key ${key.name}` }, "removed where it was set"),
  );
  redraw($("keys"), rows);
}

function drawOrigins({ origins, desktop_apps, desktop_app_origins }) {
  $("origin-apps").checked = desktop_apps;
  $("origin-apps-words").textContent = desktop_app_origins.join(", ");
  $("origin-note").textContent = notes.get("origins") ?? "";
  redraw($("origins"), origins.map((origin) => plainRow("origin", origin, [code(origin)], { action: "origin-remove", words: "Remove", name: `Remove ${origin}` })));
}

function drawAliases({ aliases }, models) {
  const rows = Object.entries(aliases).map(([name, model]) =>
    plainRow("alias", name, [code(name), make("span", { class: "faint" }, "means"), code(model)], { action: "alias-remove", words: "Remove", name: `Remove the alias ${name}` }),
  );
  $("alias-note").textContent = notes.get("aliases") ?? "";
  redraw($("aliases"), rows);
  redraw($("alias-models"), models.map((model) => make("option", { value: model, "data-key": model })));
}

function drawCache(cache) {
  const disk = cache.folder ? `${bytes(cache.disk_bytes) === "–" ? "nothing" : bytes(cache.disk_bytes)} of ${bytes(cache.disk_limit_bytes)} on disk, in ${cache.folder}` : "nothing is kept on disk";
  $("disk-words").textContent = [`${bytes(cache.memory_bytes) === "–" ? "nothing" : bytes(cache.memory_bytes)} in memory`, disk, cache.problem].filter(Boolean).join(" · ");
  const rows = cache.models.map((one) => {
    const name = one.model || "rows without a model's name";
    return plainRow("cache", one.model, [make("b", {}, name), make("span", { class: "faint" }, `${whole.format(one.rows)} vectors, ${bytes(one.bytes)}`)], one.model && { action: "cache-clear", words: "Clear", name: `Clear the cache of ${name}` });
  });
  const all = cache.rows || cache.memory_bytes;
  if (all) rows.push(plainRow("cache", ALL, [make("b", {}, "All models"), make("span", { class: "faint" }, `${whole.format(cache.rows)} vectors`)], { action: "cache-clear", words: "Clear all", name: "Clear all of the cache" }));
  redraw($("disk"), rows.length ? rows : none("The cache is empty."));
}

function draw(answers) {
  shown = answers;
  drawKeys(answers.keys);
  drawOrigins(answers.origins);
  drawAliases(answers.aliases, answers.models);
  drawCache(answers.cache);
  drawSettings(answers.settings);
  for (const [name, row] of [["key", "keys"], ["origin", "origins"], ["alias", "aliases"]]) $(`${name}-error`).textContent = actions.errors.get(row) ?? "";
}

async function load() {
  const parts = ["settings", "keys", "origins", "aliases", "cache"];
  const answers = await Promise.all([...parts.map((part) => ask(`v1/admin/${part}`)), ask("v1/models")]);
  const models = answers.pop().answer.data.filter((model) => !model.root && !model.input_type).map((model) => model.id);
  return { ...Object.fromEntries(parts.map((part, index) => [part, answers[index].answer])), models };
}

const reload = watch($("settings"), load, draw, () => null);

// --- what the user does ----------------------------------------------------------------------------------------------

const setting = (name) => shown.settings.settings.find((one) => one.name === name);

async function changeSetting(name, value) {
  const answer = await actions.run(`setting ${name}`, "save", "v1/admin/settings", { name, value }, value === null ? `${name} is unset` : `${name} is saved`);
  if (answer) {
    if (editing === name) edit(null);
    dispatchEvent(new Event("changed"));
    await reload();
  }
}

function edit(name) {
  const before = editing;
  editing = name;
  draw(shown);
  if (name) $(`edit-${name}`).focus();
  else [...$("settings-list").querySelectorAll("[data-do=edit]")].find((one) => one.closest("[data-row]").dataset.row === `setting ${before}`)?.focus();
}

$("settings-list").addEventListener("submit", (event) => {
  event.preventDefault();
  const { name } = setting(event.target.dataset.setting);
  changeSetting(name, typed(setting(name), $(`edit-${name}`).value));
});
$("settings-list").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && editing) edit(null);
});

async function remove(question, details, verb, row, path, body, done) {
  if (!(await confirmed(question, details, verb))) return;
  const answer = await actions.run(row, "remove", path, body, done);
  if (answer) notes.set(path.split("/")[2], answer.note);
  dispatchEvent(new Event("changed"));
  await reload();
}

const REMOVED = {
  "key-remove": (name) => {
    const last = shown.keys.keys.length === 1;
    const effect = last ? "It is the last one: afterwards every program of this machine may use the daemon." : "Programs that use it are refused at once. If this page uses it, it asks for another one.";
    return [`Remove the key ${name}?`, effect, "Remove", "v1/admin/keys/delete", { name }, `The key ${name} is removed`];
  },
  "alias-remove": (name) => [`Remove the alias ${name}?`, "Programs that use this name get an error.", "Remove", "v1/admin/aliases", { name, model: null }, `The alias ${name} is removed`],
  "origin-remove": (name) => [`Remove ${name}?`, "Pages of this origin are refused at once.", "Remove", "v1/admin/origins", { origins: shown.origins.origins.filter((one) => one !== name) }, `${name} is removed`],
  "cache-clear": (name) => [`Clear the cache of ${name === ALL ? "all models" : name}?`, "Its texts are computed again when they are next asked for.", "Clear", "v1/admin/cache/clear", name === ALL ? {} : { model: name }, "The cache is cleared"],
};

onButtons($("settings-open"), (action, row) => {
  const name = row?.slice(row.indexOf(" ") + 1);
  if (action === "edit") edit(name);
  else if (action === "cancel") {
    actions.errors.delete(row);
    edit(null);
  } else if (action === "unset") changeSetting(name, null);
  else if (REMOVED[action]) {
    const [question, details, verb, ...request] = REMOVED[action](name);
    remove(question, details, verb, row, ...request);
  }
});

/** Let a form add a row to a list: its errors are shown below it. */
function adds(form, row, request) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const [path, body, done] = request();
    const answer = await actions.run(row, "add", path, body, done);
    if (!answer) return;
    form.reset();
    notes.set(row, answer.note);
    if (answer.key) showKey(answer);
    dispatchEvent(new Event("changed"));
    await reload();
  });
}

adds($("key-add"), "keys", () => ["v1/admin/keys", { name: $("key-name").value.trim() }, ""]);
adds($("origin-add"), "origins", () => ["v1/admin/origins", { origins: [...shown.origins.origins, $("origin-name").value.trim()] }, "Allowed"]);
$("origin-apps").addEventListener("change", async () => {
  const answer = await actions.run("origins", "apps", "v1/admin/origins", { origins: shown.origins.origins, desktop_apps: $("origin-apps").checked }, "Saved");
  if (answer) notes.set("origins", answer.note);
  await reload();
});
adds($("alias-add"), "aliases", () => ["v1/admin/aliases", { name: $("alias-name").value.trim(), model: $("alias-model").value.trim() }, "The alias is added"]);

/** Show a new key until the user has kept it. The first key locks the daemon, so this page goes on with it. */
function showKey({ name, key, note }) {
  const first = sessionStorage.getItem(KEY) === null;
  if (first) sessionStorage.setItem(KEY, key);
  $("key-new").hidden = false;
  $("key-new-key").textContent = key;
  const words = first ? "It is the first one: every program needs a key from now on. This page uses it until you close the tab." : note;
  $("key-new-words").textContent = [`The key ${name} is shown only now: copy it.`, words].filter(Boolean).join(" ");
  $("key-copy").focus();
}

$("key-copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("key-new-key").textContent);
    announce("Copied");
    $("key-copy").textContent = "Copied";
  } catch {
    // Without HTTPS, pages from other machines have no clipboard.
    getSelection().selectAllChildren($("key-new-key"));
    announce("Press Ctrl-C");
    $("key-copy").textContent = "Press Ctrl-C";
  }
  setTimeout(() => ($("key-copy").textContent = "Copy key"), 2000);
});
$("key-hide").addEventListener("click", () => {
  $("key-new").hidden = true;
  $("key-new-key").textContent = "";
  $("key-name").focus();
});

for (const event of ["input", "change"]) $("settings-filters").addEventListener(event, () => shown && drawSettings(shown.settings));
$("settings-filters").addEventListener("submit", (event) => event.preventDefault());
$("settings-parts").addEventListener("click", (event) => {
  const part = event.target.dataset.part;
  if (!part) return;
  $(part).scrollIntoView({ block: "start" });
  $(part).focus({ preventScroll: true });
});

// --- restart ---------------------------------------------------------------------------------------------------------

let restarting = false;

async function restarted(since) {
  while (performance.now() - since < RESTART_MS) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    try {
      const { answer } = await ask("v1/status");
      if (1000 * answer.uptime_seconds < performance.now() - since) return true;
    } catch (failure) {
      if (!(failure instanceof Failure) || failure.status === 401) throw failure;
    }
  }
  return false;
}

$("restart-now").addEventListener("click", async () => {
  if (restarting) return;
  restarting = true;
  $("restart-error").textContent = "";
  $("restart-words").textContent = "The daemon ends its requests and starts again.";
  $("restart-now").setAttribute("aria-disabled", "true");
  const since = performance.now();
  try {
    await ask("v1/admin/restart", {});
    if (await restarted(since)) announce("The daemon was started again");
    else $("restart-error").textContent = "The daemon has not started again. See the end of its log on the machine that it runs on: edgeembed logs.";
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (failure.status === 401) dispatchEvent(new Event("locked"));
    else $("restart-error").textContent = advice(failure);
  } finally {
    restarting = false;
    $("restart-now").removeAttribute("aria-disabled");
    dispatchEvent(new Event("changed"));
    if (!$("restart-error").textContent) $("settings").focus();
    await reload();
  }
});
