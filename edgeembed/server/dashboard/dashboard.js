// The dashboard of an edgeembed daemon. It uses the public routes only.

import { $, Failure, KEY, ask, bytes, draw, duration, facts, make, marked, whole } from "./page.js";
import { setConnect } from "./connect.js";
import { showPaused } from "./pause.js";
import "./log.js";
import "./models.js";
import { setModels } from "./playground.js";
import "./access.js";
import "./settings.js";

const POLL_MS = 2000;

const LOOK_MS = 10000;
const START_MS = 500;

// --- formatting ------------------------------------------------------------------------------------------------------

const short = (value) => (value == null ? "–" : value !== 0 && Math.abs(value) < 10 ? value.toPrecision(2) : whole.format(Math.round(value)));
const percent = (value) => (value == null ? "–" : `${Math.round(100 * value)} %`);

// --- tabs ------------------------------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll("[role=tab]")];

function show(tab, { focus = false } = {}) {
  for (const each of tabs) {
    const chosen = each === tab;
    each.setAttribute("aria-selected", String(chosen));
    each.tabIndex = chosen ? 0 : -1;
    $(each.getAttribute("aria-controls")).hidden = !chosen;
  }
  if (focus) tab.focus();
  dispatchEvent(new Event("shown"));
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
}

for (const tab of tabs) {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(tab);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1 + tabs.length, Home: 0, End: tabs.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(tabs[next % tabs.length], { focus: true });
  });
}

function showAddressed() {
  show(tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? tabs[0]);
}
addEventListener("hashchange", showAddressed);
showAddressed();

// --- charts ----------------------------------------------------------------------------------------------------------

const WIDTH = 300;
const HEIGHT = 60;

/** Return an SVG path through values from 0 to 1, left to right; null interrupts the line. */
function path(values) {
  let drawn = "";
  let broken = true;
  values.forEach((value, index) => {
    if (value == null) {
      broken = true;
      return;
    }
    const x = ((index + 0.5) * WIDTH) / values.length;
    drawn += `${broken ? "M" : "L"}${x.toFixed(1)} ${(HEIGHT - 2 - (HEIGHT - 6) * value).toFixed(1)}`;
    // A single point becomes a dot, as the line has round ends.
    if (broken && values[index + 1] == null) drawn += "h0.1";
    broken = false;
  });
  return drawn;
}

/** A current value with a chart of its last minutes; pointing at the chart shows the value at that time. */
class Tile {
  constructor({ title, unit, format, legend = [], logarithmic = false }) {
    this.format = format;
    this.logarithmic = logarithmic;
    this.unit = unit;
    this.title = title;
    this.value = make("span");
    this.small = make("small", {}, unit);
    this.when = make("span", {}, "");
    this.svg = draw("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    const head = make("div", { class: "head" }, make("span", {}, title), this.when);
    this.element = make("div", { class: "tile" }, head, make("div", { class: "value" }, this.value, this.small), this.svg);
    if (legend.length) {
      const words = legend.map((word, index) => [make("i", { class: index ? "key second" : "key" }), word]);
      this.element.append(make("div", { class: "faint" }, ...words.flat()));
    }
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.rest());
  }

  update(now, step, lines, most = null) {
    Object.assign(this, { now, step, lines });
    const highest = Math.max(0, ...lines.flat().filter((value) => value != null));
    // Cache hits take less than a millisecond, bulk requests seconds: a linear scale cannot show both.
    const curve = this.logarithmic ? (value) => Math.log1p(20 * value) : (value) => value;
    const scale = curve(most ?? (highest || 1));
    const paths = lines.map((line) => path(line.map((value) => (value == null ? null : curve(value) / scale))));
    const base = draw("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1 });
    const drawn = paths.map((_, index) => draw("path", { class: index ? "line second" : "line", d: paths[index] }));
    // The area below is filled only if the line has no gaps.
    if (!lines[0].includes(null)) drawn.unshift(draw("path", { class: "area", d: `${paths[0]}V${HEIGHT}H0Z` }));
    this.svg.replaceChildren(base, ...drawn);
    this.svg.setAttribute("aria-label", `${this.title}, last five minutes: now ${now} ${this.unit}, at most ${this.format(highest)}`);
    this.rest();
  }

  /** Show no value: the daemon is not there. */
  clear() {
    if (!this.lines) return;
    this.now = "–";
    this.lines = null;
    this.svg.replaceChildren();
    this.svg.setAttribute("aria-label", `${this.title}: unknown`);
    this.rest();
  }

  point(event) {
    if (!this.lines) return;
    const box = this.svg.getBoundingClientRect();
    const count = this.lines[0].length;
    const at = Math.min(count - 1, Math.max(0, Math.floor((count * (event.clientX - box.left)) / box.width)));
    const x = ((at + 0.5) * WIDTH) / count;
    this.svg.querySelector(".cursor")?.remove();
    this.svg.append(draw("line", { class: "cursor", x1: x, x2: x, y1: 0, y2: HEIGHT }));
    this.value.textContent = this.lines.map((line) => this.format(line[at])).join(" / ");
    this.when.textContent = `${duration((count - at) * this.step)} ago`;
  }

  rest() {
    this.svg.querySelector(".cursor")?.remove();
    this.value.textContent = this.now;
    this.when.textContent = "5 min";
  }
}

const tiles = {
  requests: new Tile({ title: "Requests", unit: "per second", format: short }),
  latency: new Tile({ title: "Latency", unit: "ms", format: short, logarithmic: true, legend: ["median", "95th percentile"] }),
  hits: new Tile({ title: "From the cache", unit: "of texts", format: percent }),
  tokens: new Tile({ title: "Computed", unit: "tokens per second", format: short }),
};
$("tiles").append(...Object.values(tiles).map((tile) => tile.element));

/** A histogram of row lengths, over the part of the axis that has any. */
function histogram(bounds, counts) {
  const first = Math.max(0, counts.findIndex((count) => count) - 2);
  const last = Math.min(counts.length - 1, counts.findLastIndex((count) => count) + 2);
  const shown = counts.slice(first, last + 1);
  const most = Math.max(...shown);
  const wide = WIDTH / shown.length;
  const svg = draw("svg", { class: "bars", viewBox: `0 0 ${WIDTH} 80`, preserveAspectRatio: "none", role: "img" });
  svg.setAttribute("aria-label", `Lengths from ${short(bounds[first])} to ${short(bounds[Math.min(last, bounds.length - 1)])}`);
  shown.forEach((count, index) => {
    const height = count ? Math.max(1.5, (76 * count) / most) : 0;
    const title = draw("title", {}, `up to ${short(bounds[first + index] ?? Infinity)}: ${whole.format(count)} rows`);
    svg.append(draw("rect", { x: index * wide + 1, y: 79 - height, width: Math.max(1, wide - 2), height, rx: 1.5 }, title));
  });
  svg.append(draw("line", { class: "base", x1: 0, x2: WIDTH, y1: 79.5, y2: 79.5 }));
  const axis = make("div", { class: "axis" }, make("span", {}, short(bounds[first - 1] ?? 0)), make("span", {}, short(bounds[last] ?? bounds.at(-1))));
  return [svg, axis];
}

// --- overview --------------------------------------------------------------------------------------------------------

const STATES = { ready: "good", loading: "wait", starting: "wait", restarting: "warn", unloading: "wait", failed: "bad", stopped: "bad" };

/** Whether a model has something to say that is no part of its usual course. */
const isOdd = ({ reason, state }) => reason && !["loading", "starting"].includes(state);

const KINDS = { rerank: ["reranker"], classify: ["classifier"] };

function modelCard(model) {
  const tags = [model.type, ...(KINDS[model.task] ?? []), ...(model.default ? ["default"] : []), ...(model.pinned ? ["pinned"] : [])];
  const left = model.keep_alive_seconds == null ? "never" : duration(model.keep_alive_seconds - (model.idle_seconds ?? 0));
  const card = make(
    "article",
    { class: "card" },
    make(
      "div",
      { class: "head" },
      make("h3", {}, model.name),
      make("span", { class: "pill", "data-state": STATES[model.state] ?? "wait" }, model.state),
    ),
    make("div", { class: "tags" }, ...tags.map((tag) => make("span", { class: "tag" }, tag))),
    make(
      "dl",
      { class: "facts" },
      ...facts([
        ["runs on", model.offload ? `${model.device}: ${model.offload}` : (model.device ?? "–")],
        ["memory", bytes(model.memory_bytes)],
        model.task === "embed"
          ? ["dimensions", model.dimensions ? whole.format(model.dimensions) : "–"]
          : [model.task === "rerank" ? "longest pair" : "longest text", model.context_tokens ? `${whole.format(model.context_tokens)} tokens` : "–"],
        ["requests", whole.format(model.requests)],
        ["idle", model.idle_seconds == null ? "busy" : duration(model.idle_seconds)],
        ["unloads in", model.state === "ready" ? left : "–"],
      ]),
    ),
  );
  if (isOdd(model)) card.append(make("p", { class: "why" }, model.reason));
  for (const demotion of model.demotions ?? []) {
    const again = demotion.again_at ? `; tried again at ${new Date(1000 * demotion.again_at).toLocaleTimeString()}` : "";
    card.append(make("p", { class: "why" }, `${demotion.mode} failed: ${demotion.reason}${again}`));
  }
  return card;
}

function vectorCard(one) {
  const inputs = one.input_type === "plain" ? "without a prompt" : one.input_type === "query" ? "queries" : "documents";
  const card = make(
    "article",
    { class: "card" },
    make(
      "div",
      { class: "head" },
      make("h3", {}, one.model),
      make("span", { class: "pill", "data-state": one.alarm ? "warn" : "good" }, one.alarm ? "unusual" : "normal"),
    ),
    make("div", { class: "tags" }, make("span", { class: "tag" }, inputs)),
    ...(one.rows ? histogram(one.norm_bounds, one.norm_buckets) : []),
    make(
      "dl",
      { class: "facts" },
      ...facts([
        ["typical length", one.norm == null ? "–" : one.norm.toPrecision(3)],
        ["spread", one.spread == null ? "–" : one.spread.toFixed(2)],
        one.drift_cosine == null
          ? ["baseline", `${whole.format(one.baseline_rows)} of 1,000`]
          : ["direction vs. baseline", one.drift_cosine.toFixed(2)],
        ["rows", whole.format(one.rows)],
        ["bad rows", whole.format(one.bad_rows)],
      ]),
    ),
  );
  if (one.alarm) card.append(make("p", { class: "why" }, one.alarm));
  return card;
}

function fill(id, cards, empty) {
  $(id).replaceChildren(...(cards.length ? cards : [make("p", { class: "empty" }, empty)]));
}

const RECENT = 5;
/** The mean of the last steps; null where none of them has a value, as nothing happened. */
function recent(values) {
  const found = values.slice(-RECENT).filter((value) => value != null);
  return found.length ? found.reduce((sum, value) => sum + value, 0) / found.length : null;
}
/** The latest value, if it is of the last steps. */
const latest = (values) => values.slice(-RECENT).findLast((value) => value != null) ?? null;

/** Return the state of the daemon for the pill, as a colour and words. */
function stateOf({ starting, paused, models, vectors }) {
  const unit = models.find((model) => model.default);
  if (starting) return ["wait", "starting"];
  if (paused) return ["warn", "paused"];
  if (!unit) return ["good", "ready, model unloaded"];
  if (unit.state !== "ready") return [STATES[unit.state] ?? "wait", unit.state];
  return vectors.some((one) => one.alarm) ? ["warn", "degraded"] : ["good", "ready"];
}

function showState(state, words) {
  // Screen readers announce changes, not every poll.
  if ($("pill").textContent !== words) $("pill").textContent = words;
  $("pill").dataset.state = state;
}

/** Show what is done before the default model can answer. Return whether anything is. */
function showStart({ starting, starting_share: share, models }) {
  const loading = models.find((model) => model.default && ["loading", "starting"].includes(model.state));
  const words = starting ? sentence(starting) : loading ? `Loading ${loading.name}` : "";
  $("starting").hidden = !words;
  $("starting-words").textContent = words;
  if (share == null) $("starting-bar").removeAttribute("value");
  else $("starting-bar").value = share;
  return Boolean(words);
}

const sentence = (words) => words[0].toUpperCase() + words.slice(1);

function overview(status) {
  const { activity, memory, models, cache, vectors } = status;
  const step = activity.step_seconds;
  $("version").textContent = `${status.version}, up ${duration(status.uptime_seconds)}`;
  showState(...stateOf(status));
  showPaused(status.paused);

  tiles.requests.update(short(recent(activity.requests_per_second)), step, [activity.requests_per_second]);
  tiles.latency.update(short(latest(activity.p50_ms)), step, [activity.p50_ms, activity.p95_ms]);
  tiles.hits.update(percent(latest(activity.hit_rate)), step, [activity.hit_rate], 1);
  tiles.tokens.update(short(recent(activity.tokens_per_second)), step, [activity.tokens_per_second]);

  $("memory-words").textContent = `${bytes(memory.used_bytes)} of ${bytes(memory.budget_bytes)} for models`;
  $("memory").setAttribute("aria-label", $("memory-words").textContent);
  $("memory").replaceChildren(
    ...models.map((model) => {
      const part = make("i", { title: `${model.name}: ${bytes(model.memory_bytes)}` });
      part.style.setProperty("--share", `${(100 * model.memory_bytes) / Math.max(memory.budget_bytes, memory.used_bytes, 1)}%`);
      return part;
    }),
  );
  const none = status.starting
    ? `The default model is not there yet: ${status.starting}.`
    : "No model is loaded. The first request that needs one loads it.";
  fill("models", models.map(modelCard), none);
  fill("vectors", vectors.map(vectorCard), "No text has been computed yet.");
  $("cache").replaceChildren(
    ...(cache
      ? facts([
          ["hits in memory", whole.format(cache.memory_hits)],
          ["hits on disk", whole.format(cache.disk_hits)],
          ...(cache.shared ? [["hits in the shared cache", whole.format(cache.shared_hits)]] : []),
          ["misses", whole.format(cache.misses)],
          ["time saved", duration(cache.saved_seconds)],
          ["rows in memory", whole.format(cache.memory_entries)],
          ["memory", `${bytes(cache.memory_bytes)} of ${bytes(cache.memory_limit_bytes)}`],
          ["disk", cache.disk_problem ?? `up to ${bytes(cache.disk_limit_bytes)}`],
          ...(cache.shared ? [["shared", cache.shared.problem ?? cache.shared.address]] : []),
        ])
      : facts([["state", "off"]])),
  );
}

// --- names of models -------------------------------------------------------------------------------------------------

function choose(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map((option) => make("option", {}, option)));
  if (options.includes(before)) select.value = before;
}

async function loadNames() {
  const { answer } = await ask("v1/models");
  const ids = new Set(answer.data.map((model) => model.id));
  // NAME is short for NAME:TYPE if a model has one type only; aliases and NAME:query are the same models.
  const names = answer.data.filter(({ id, input_type }) => !input_type && !(id.includes(":") && ids.has(id.slice(0, id.lastIndexOf(":")))));
  const plain = names.filter(({ root }) => !root);
  const of = (task) => plain.filter((model) => model.task === task).map((model) => model.id);
  const [embedders, rerankers] = [of("embed"), of("rerank")];
  choose($("embedder"), embedders);
  choose($("reranker"), rerankers);
  $("rerank-line").hidden = !rerankers.length;
  setModels({
    prompted: new Set(plain.map(({ id }) => id).filter((id) => ids.has(`${id}:query`))),
    outputs: new Map(plain.map(({ id, outputs }) => [id, outputs ?? []])),
  });
  setConnect(names);
}

// --- API keys, and polling -------------------------------------------------------------------------------------------

let locked = false;
let named = null;

function lock(words = "") {
  locked = true;
  named = null;
  sessionStorage.removeItem(KEY);
  $("unlock").hidden = false;
  $("forget").hidden = true;
  $("tabs").hidden = true;
  for (const tab of tabs) $(tab.getAttribute("aria-controls")).hidden = true;
  $("pill").textContent = "locked";
  $("pill").dataset.state = "wait";
  $("unlock-error").textContent = words;
  $("key").focus();
}

$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value);
  $("key").value = "";
  $("unlock-error").textContent = "";
  refresh({ fresh: true });
});
$("forget").addEventListener("click", () => lock());
addEventListener("locked", () => lock());

function open() {
  if (locked) {
    locked = false;
    $("unlock").hidden = true;
    $("tabs").hidden = false;
    showAddressed();
  }
  const keyed = sessionStorage.getItem(KEY) !== null;
  $("forget").hidden = !keyed;
  // Links cannot send the key.
  for (const link of document.querySelectorAll("nav a")) link.hidden = keyed;
}

/** The models that are known now; when they change, the lists of names are read again. */
const known = ({ models }) => models.map(({ name, type }) => `${name}:${type}`).sort().join();

async function refresh({ fresh = false } = {}) {
  if (locked && !fresh) return;
  try {
    const { answer } = await ask("v1/status", undefined, AbortSignal.timeout(LOOK_MS));
    open();
    found();
    preparing = showStart(answer);
    overview(answer);
    if (!answer.starting && named !== known(answer)) {
      await loadNames();
      named = known(answer);
    }
    const reasons = answer.models.filter(isOdd).map((model) => `${model.name}: ${model.reason}`);
    notify(reasons.join("; "));
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (failure.status === 401) {
      const tried = sessionStorage.getItem(KEY);
      lock(tried ? "Unknown API key." : "");
      return;
    }
    if (failure.status) notify(failure.message);
    else lose();
  }
}

// --- a daemon that is gone -------------------------------------------------------------------------------------------

let preparing = false;
let ending = null;
let waiting = null;

/** Note that the daemon answers; learn why it ends, if it does. */
function found() {
  ending = null;
  if (!waiting && !document.hidden) waitForEnd();
}

/** Keep a request open, which the daemon answers when it ends: afterwards, nothing tells why. */
async function waitForEnd() {
  const own = (waiting = new AbortController());
  try {
    let told = {};
    while (!told.reason) told = (await ask("v1/status/ending?wait=25", undefined, own.signal)).answer ?? {};
    ending = told;
    lose();
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
  } finally {
    if (waiting === own) waiting = null;
  }
}

/** Show that the daemon does not answer, why, and what to do. */
function lose() {
  named = null;
  preparing = false;
  const why = ending
    ? `The daemon has stopped: ${ending.reason.replace(/\.$/, "")}.`
    : `The daemon at ${location.origin} does not answer. It was killed, it crashed, or the network is down; its log may tell more.`;
  const back = ending?.restarts ? "" : " To start it: `edgeembed serve`.";
  showState(ending?.restarts ? "wait" : "bad", ending?.restarts ? "restarting" : ending ? "stopped" : "not responding");
  $("starting").hidden = $("pause").hidden = true;
  for (const tile of Object.values(tiles)) tile.clear();
  $("memory-words").textContent = "";
  $("memory").replaceChildren();
  for (const id of ["models", "vectors"]) fill(id, [], "Unknown: the daemon does not answer.");
  $("cache").replaceChildren(...facts([["state", "unknown"]]));
  notify(`${why}${back} This page goes on by itself when it is back.`);
}

function notify(words) {
  if ($("notice").dataset.words !== words) $("notice").replaceChildren(...marked(words));
  $("notice").dataset.words = words;
  $("notice").hidden = !words;
}

/** Poll while the page is visible. */
async function loop() {
  if (!document.hidden) await refresh();
  setTimeout(loop, preparing ? START_MS : POLL_MS);
}
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return;
  named = null; // models may be installed meanwhile
  waiting?.abort(); // a browser opens few connections to a server, for all its tabs together
});
// Other scripts have changed what is installed, named or computed.
addEventListener("changed", () => {
  named = null;
  // The first key may have locked the page before it knew the key.
  refresh({ fresh: sessionStorage.getItem(KEY) !== null });
});
loop();
