// The tab Settings: API keys, allowed apps and pages, aliases, and what the cache holds.

import { $, KEY, announce, bytes, make, whole } from "./page.js";
import { button, confirmed, onButtons, redraw } from "./manage.js";
import { actions, parts, reload, shown } from "./settings_state.js";

/** The row of the whole cache; no model has this name. */
const ALL = "*";

/** What the daemon said about the last change of a list, such as that a flag goes before it. */
const notes = new Map();

// --- lists -----------------------------------------------------------------------------------------------------------

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
  const open = "No keys: every program and every user of this machine may use and manage the daemon.";
  $("keys-words").textContent = keys.length ? "Who has one of these keys may use and manage the daemon." : open;
  const rows = keys.map((key) =>
    plainRow(
      "key",
      key.name,
      [make("b", {}, key.name), make("span", { class: "faint" }, key.source)],
      key.removable && { action: "key-remove", words: "Remove", name: `Remove the key ${key.name}` },
      "removed where it was set",
    ),
  );
  redraw($("keys"), rows);
}

function drawOrigins({ origins, desktop_apps, desktop_app_origins }) {
  $("origin-apps").checked = desktop_apps;
  $("origin-apps-words").textContent = desktop_app_origins.join(", ");
  $("origin-note").textContent = notes.get("origins") ?? "";
  redraw(
    $("origins"),
    origins.map((origin) =>
      plainRow("origin", origin, [code(origin)], { action: "origin-remove", words: "Remove", name: `Remove ${origin}` }),
    ),
  );
}

function drawAliases({ aliases }, models) {
  const rows = Object.entries(aliases).map(([name, model]) =>
    plainRow("alias", name, [code(name), make("span", { class: "faint" }, "means"), code(model)], {
      action: "alias-remove",
      words: "Remove",
      name: `Remove the alias ${name}`,
    }),
  );
  $("alias-note").textContent = notes.get("aliases") ?? "";
  redraw($("aliases"), rows);
  redraw(
    $("alias-models"),
    models.map((model) => make("option", { value: model, "data-key": model })),
  );
}

function drawCache(cache) {
  const disk = cache.folder
    ? `${bytes(cache.disk_bytes) === "–" ? "nothing" : bytes(cache.disk_bytes)} of ${bytes(cache.disk_limit_bytes)} on disk, in ${cache.folder}`
    : "nothing is kept on disk";
  $("disk-words").textContent = [
    `${bytes(cache.memory_bytes) === "–" ? "nothing" : bytes(cache.memory_bytes)} in memory`,
    disk,
    cache.problem,
  ]
    .filter(Boolean)
    .join(" · ");
  const rows = cache.models.map((one) => {
    const name = one.model || "rows without a model's name";
    return plainRow(
      "cache",
      one.model,
      [make("b", {}, name), make("span", { class: "faint" }, `${whole.format(one.rows)} vectors, ${bytes(one.bytes)}`)],
      one.model && { action: "cache-clear", words: "Clear", name: `Clear the cache of ${name}` },
    );
  });
  const all = cache.rows || cache.memory_bytes;
  if (all)
    rows.push(
      plainRow("cache", ALL, [make("b", {}, "All models"), make("span", { class: "faint" }, `${whole.format(cache.rows)} vectors`)], {
        action: "cache-clear",
        words: "Clear all",
        name: "Clear all of the cache",
      }),
    );
  redraw($("disk"), rows.length ? rows : none("The cache is empty."));
}

parts.push(({ keys, origins, aliases, cache, models }) => {
  drawKeys(keys);
  drawOrigins(origins);
  drawAliases(aliases, models);
  drawCache(cache);
  for (const list of ["keys", "origins", "aliases"]) $(`${list}-error`).textContent = actions.errors.get(list) ?? "";
});

// --- what the user does ----------------------------------------------------------------------------------------------

async function remove(question, details, verb, row, path, body, done) {
  if (!(await confirmed(question, details, verb))) return;
  const answer = await actions.run(row, "remove", path, body, done);
  if (answer) notes.set(path.split("/")[2], answer.note);
  // The next first key is this page's, too.
  if (answer?.keys?.length === 0) sessionStorage.removeItem(KEY);
  dispatchEvent(new Event("changed"));
  await reload();
}

const REMOVED = {
  "key-remove": (name) => {
    const last = shown.now.keys.keys.length === 1;
    const effect = last
      ? "It is the last one: afterwards every program of this machine may use the daemon."
      : "Programs that use it are refused at once. If this page uses it, it asks for another one.";
    return [`Remove the key ${name}?`, effect, "Remove", "v1/admin/keys/delete", { name }, `The key ${name} is removed`];
  },
  "alias-remove": (name) => [
    `Remove the alias ${name}?`,
    "Programs that use this name get an error.",
    "Remove",
    "v1/admin/aliases",
    { name, model: null },
    `The alias ${name} is removed`,
  ],
  "origin-remove": (name) => [
    `Remove ${name}?`,
    "Pages of this origin are refused at once.",
    "Remove",
    "v1/admin/origins",
    { origins: shown.now.origins.origins.filter((one) => one !== name) },
    `${name} is removed`,
  ],
  "cache-clear": (name) => [
    `Clear the cache of ${name === ALL ? "all models" : name}?`,
    "Its texts are computed again when they are next asked for.",
    "Clear",
    "v1/admin/cache/clear",
    name === ALL ? {} : { model: name },
    "The cache is cleared",
  ],
};

for (const list of ["keys", "origins", "aliases", "disk"]) {
  onButtons($(list), (action, row) => {
    const [question, details, verb, ...request] = REMOVED[action](row.slice(row.indexOf(" ") + 1));
    remove(question, details, verb, row, ...request);
  });
}

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
adds($("origin-add"), "origins", () => [
  "v1/admin/origins",
  { origins: [...shown.now.origins.origins, $("origin-name").value.trim()] },
  "Allowed",
]);
$("origin-apps").addEventListener("change", async () => {
  const answer = await actions.run(
    "origins",
    "apps",
    "v1/admin/origins",
    { origins: shown.now.origins.origins, desktop_apps: $("origin-apps").checked },
    "Saved",
  );
  if (answer) notes.set("origins", answer.note);
  await reload();
});
adds($("alias-add"), "aliases", () => [
  "v1/admin/aliases",
  { name: $("alias-name").value.trim(), model: $("alias-model").value.trim() },
  "The alias is added",
]);

/** Show a new key until the user has kept it. The first key locks the daemon, so this page goes on with it. */
function showKey({ name, key, note }) {
  const first = shown.now.keys.keys.length === 0;
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
