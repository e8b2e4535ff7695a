// The tab Log: the daemon's latest lines. Lines are added at the end and never replaced, so the reader keeps their place.

import { $, ask, make } from "./page.js";
import { watch } from "./manage.js";

const POLL_MS = 2000;
const TAIL = 500;
const MOST_LINES = 3000;

const box = $("log-lines");
let paused = false;
/** Whether the reader is at the end, and wants to stay there. */
let follows = true;
let place = 0;
let last = null;
let unseen = 0;

const atEnd = () => box.scrollHeight - box.scrollTop - box.clientHeight < 24;

function toEnd() {
  follows = true;
  unseen = 0;
  box.scrollTop = box.scrollHeight;
}

function lineView(line) {
  const at = new Date(line.time);
  const time = make("time", { datetime: line.time, title: at.toLocaleString() }, at.toLocaleTimeString("en", { hour12: false }));
  return make(
    "p",
    { class: "log-line", "data-level": line.level, "data-number": line.number },
    time,
    " ",
    make("b", {}, line.level),
    " ",
    make("span", {}, line.message),
  );
}

const gap = (words) => make("p", { class: "log-gap" }, words);

function draw({ lines }) {
  let fresh = lines;
  const added = [];
  if (last !== null && lines.length) {
    // The daemon counts from 1 again when it starts.
    if (lines.at(-1).number < last) added.push(gap("The daemon was started again."));
    else {
      fresh = lines.filter((line) => line.number > last);
      if (fresh.length === lines.length && lines.length >= TAIL) added.push(gap("Some lines are missing here."));
    }
  }
  if (lines.length) last = lines.at(-1).number;
  added.push(...fresh.map(lineView));
  if (!added.length && box.childElementCount) return show();
  if (added.length) box.querySelector(".log-none")?.remove();
  else box.append(make("p", { class: "log-none faint" }, "No lines of this level yet."));
  box.append(...added);
  if (follows) {
    while (box.childElementCount > MOST_LINES) box.firstElementChild.remove();
    toEnd();
  } else unseen += fresh.length;
  return show();
}

function show() {
  $("log-newest").hidden = follows;
  $("log-newest").textContent = unseen ? `Newest lines (${unseen} new)` : "Newest lines";
  const words = paused ? "Paused" : follows ? "Following" : "New lines are added below";
  if ($("log-state").textContent !== words) $("log-state").textContent = words;
}

const load = async () => (await ask(`v1/admin/log?level=${$("log-level").value}&lines=${TAIL}`)).answer;
const reload = watch(
  $("log"),
  () => (paused && last !== null ? { lines: [] } : load()),
  draw,
  () => (paused ? null : POLL_MS),
);

box.addEventListener("scroll", () => {
  if ($("log").hidden) return;
  place = box.scrollTop;
  follows = atEnd();
  if (follows) unseen = 0;
  show();
});
// A box that was hidden or has another size may have lost its place.
new ResizeObserver(() => {
  if ($("log").hidden) return;
  if (follows) toEnd();
  else box.scrollTop = place;
}).observe(box);
$("log-newest").addEventListener("click", () => {
  toEnd();
  show();
  box.focus();
});
$("log-pause").addEventListener("click", () => {
  paused = !paused;
  $("log-pause").textContent = paused ? "Follow" : "Pause";
  show();
  reload();
});
$("log-level").addEventListener("change", () => {
  box.replaceChildren();
  last = null;
  toEnd();
  reload();
});
