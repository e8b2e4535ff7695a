// What the tabs Models, Settings and Log share: redrawing that keeps focus, polling while a tab is shown, actions with their
// errors beside them, and a dialog that asks before something is removed.

import { $, Failure, KEY, announce, ask, make } from "./page.js";

// --- redrawing -------------------------------------------------------------------------------------------------------

/** Make `old` look like `fresh` and keep its elements, and with them focus, text that is being typed, and scroll positions.
 *  Children with `data-key` are found again by it, others by their place. */
function morph(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  const children = [...fresh.childNodes];
  const keys = new Set(children.map((child) => child.dataset?.key));
  const known = new Map();
  for (const child of [...old.children]) {
    const { key } = child.dataset;
    if (key === undefined) continue;
    if (keys.has(key)) known.set(key, child);
    else child.remove();
  }
  let at = old.firstChild;
  for (const child of children) {
    const key = child.dataset?.key;
    const match = key === undefined ? at : known.get(key);
    if (!match || match.nodeName !== child.nodeName || match.dataset?.key !== key) {
      old.insertBefore(child, at);
      continue;
    }
    if (match === at) at = at.nextSibling;
    else old.insertBefore(match, at);
    morph(match, child);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

/** Replace the children of an element. If the focused one goes, focus stays in its row, `data-row`, or else near it. */
export function redraw(element, children) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const row = focused?.closest("[data-row]")?.dataset.row;
  const action = focused?.dataset.do;
  const fresh = make("div");
  fresh.append(...children);
  morphChildren(element, fresh);
  if (!focused || document.activeElement === focused) return;
  const found = [...element.querySelectorAll("[data-row]")].find((each) => each.dataset.row === row);
  const buttons = [...(found?.querySelectorAll("button, input, select, textarea") ?? [])];
  (buttons.find((each) => each.dataset.do === action) ?? buttons[0] ?? element.closest("[tabindex]")).focus();
}

/** Return a button that does something to a row. words: what it shows; name: what a screen reader says. */
export function button(action, words, name, { quiet = true, busy = false } = {}) {
  const attributes = { type: "button", "data-do": action, "data-key": action, "aria-label": name };
  if (quiet) attributes.class = "quiet";
  // A disabled button would lose focus.
  if (busy) attributes["aria-disabled"] = "true";
  return make("button", attributes, words);
}

// --- polling ---------------------------------------------------------------------------------------------------------

/** Return words as sentences, also those of a message without a full stop. */
function sentence(words) {
  // Names of settings keep their case.
  const first = /^[a-z]+ [a-z]/.test(words) ? words.charAt(0).toUpperCase() + words.slice(1) : words;
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

/** Return the words for a failure, with what a visitor can do who may not manage the daemon. */
export function advice(failure) {
  const here = new URL(document.baseURI);
  [here.hostname, here.hash] = ["127.0.0.1", ""];
  const key = sessionStorage.getItem(KEY) ? "" : ", or give the daemon an API key and enter it here";
  const way = failure.status === 403 ? ` Open this page on the machine that the daemon runs on, as ${here.href}${key}.` : "";
  return sentence(failure.message) + way;
}

/** Show an error in the panel's line for it, or none. Without the owner's rights nothing else of the panel is shown. */
function report(panel, failure) {
  const refused = failure?.status === 403;
  const line = $(`${panel.id}-problem`);
  const words = failure ? advice(failure) : "";
  if (line.textContent !== words) line.textContent = words;
  line.hidden = !failure;
  if (refused || !failure) $(`${panel.id}-open`).hidden = refused;
}

/** Load and draw while a panel is shown, now and every `wait()` milliseconds; null: only when it is shown again. Return a
 *  function that does so at once; what was asked for before is not drawn any more. */
export function watch(panel, load, draw, wait) {
  let turns = 0;
  let timer = 0;
  async function now() {
    clearTimeout(timer);
    const turn = ++turns;
    if (panel.hidden || document.hidden) return;
    let failure = null;
    let answer;
    try {
      answer = await load();
    } catch (caught) {
      if (!(caught instanceof Failure)) throw caught;
      failure = caught;
    }
    if (turn !== turns) return;
    if (failure?.status === 401) {
      dispatchEvent(new Event("locked"));
      return;
    }
    report(panel, failure);
    if (!failure) draw(answer);
    const next = failure ? 5000 : wait();
    if (next !== null) timer = setTimeout(now, next);
  }
  addEventListener("shown", now);
  document.addEventListener("visibilitychange", now);
  return now;
}

// --- actions ---------------------------------------------------------------------------------------------------------

/** What is being done to the rows of a list, and what failed. */
export class Actions {
  constructor(changed) {
    this.changed = changed;
    this.busy = new Map();
    this.errors = new Map();
  }

  /** Ask the daemon to do something to a row; return its answer, or null if it failed or something is being done already. */
  async run(row, verb, path, body, done = "") {
    if (this.busy.has(row)) return null;
    this.busy.set(row, verb);
    this.errors.delete(row);
    this.changed();
    try {
      const { answer } = await ask(path, body);
      if (done) announce(done);
      return answer;
    } catch (failure) {
      if (!(failure instanceof Failure)) throw failure;
      if (failure.status === 401) dispatchEvent(new Event("locked"));
      else this.errors.set(row, advice(failure));
      return null;
    } finally {
      this.busy.delete(row);
      this.changed();
    }
  }

  /** Return the elements that show what failed. */
  problem(row) {
    const words = this.errors.get(row);
    return words ? [make("p", { class: "error", role: "alert", "data-key": "problem" }, words)] : [];
  }
}

/** Call `act(action, row, button)` for each click on a button that is not busy. */
export function onButtons(element, act) {
  element.addEventListener("click", (event) => {
    const pressed = event.target.closest("button[data-do]");
    if (!pressed || pressed.getAttribute("aria-disabled") === "true") return;
    act(pressed.dataset.do, pressed.closest("[data-row]")?.dataset.row, pressed);
  });
}

/** Ask the user; return whether they agree. */
export function confirmed(question, details, verb) {
  const dialog = $("confirm");
  $("confirm-question").textContent = question;
  $("confirm-details").textContent = details;
  $("confirm-yes").textContent = verb;
  dialog.returnValue = "";
  dialog.showModal();
  $("confirm-no").focus();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
$("confirm-yes").addEventListener("click", () => $("confirm").close("yes"));
$("confirm-no").addEventListener("click", () => $("confirm").close());

/** Return a pill. */
export function pill(state, words) {
  return make("span", { class: "pill", "data-state": state }, words);
}

export function tag(words) {
  return make("span", { class: "tag" }, words);
}
