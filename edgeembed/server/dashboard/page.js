// What the scripts of the dashboard share: elements, and requests to the daemon. Everything from users or the server is put
// into the page as text, never as HTML.

export const KEY = "edgeembed-key";
export const $ = (id) => document.getElementById(id);

// --- elements --------------------------------------------------------------------------------------------------------

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function facts(pairs) {
  return pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
}

/** Return words as nodes: what stands between backticks is code. */
export function marked(words) {
  return words.split("`").map((part, index) => (index % 2 ? make("code", {}, part) : part));
}

/** Announce to screen readers. */
export function announce(words) {
  $("said").textContent = words;
}

// --- numbers ---------------------------------------------------------------------------------------------------------

export const whole = new Intl.NumberFormat("en");

export function bytes(value) {
  if (value == null) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  const step = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(value, 1)) / 3));
  const scaled = value / 1000 ** step;
  return `${scaled < 10 && step ? scaled.toFixed(1) : Math.round(scaled)} ${units[step]}`;
}

export function duration(seconds) {
  const rounded = Math.max(0, Math.round(seconds));
  if (rounded < 60) return `${rounded} s`;
  if (rounded < 3600) return `${Math.floor(rounded / 60)} min`;
  if (rounded < 172800) return `${Math.floor(rounded / 3600)} h ${Math.floor((rounded % 3600) / 60)} min`;
  return `${Math.floor(rounded / 86400)} days`;
}

// --- requests --------------------------------------------------------------------------------------------------------

/** A request that failed. status: 0 if there was no answer. param: the field that the daemon names, such as input[0]. */
export class Failure extends Error {
  constructor(message, status, param = null) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

/** Send a request with the key, and return its JSON. signal: ends it, such as after a time. */
export async function ask(path, body, signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  let response;
  let answer;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), cache: "no-store", signal });
    answer = await response.text();
  } catch {
    throw new Failure("The daemon does not respond. Is it still running?", 0);
  }
  try {
    answer = JSON.parse(answer);
  } catch {
    answer = null;
  }
  // The page has been given another key meanwhile.
  if (response.status === 401 && sessionStorage.getItem(KEY) !== key) return ask(path, body, signal);
  if (!response.ok) {
    const { message = answer?.error, param } = answer?.error ?? {};
    throw new Failure(typeof message === "string" ? message : `The daemon responded with status ${response.status}.`, response.status, param);
  }
  return { answer, cache: response.headers.get("x-edgeembed-cache") };
}
