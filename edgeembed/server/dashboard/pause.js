// The button in the header that pauses and resumes the daemon.

import { $, Failure, announce, ask } from "./page.js";
import { advice } from "./manage.js";

let paused = false;
let asking = false;

/** Show the state that the daemon is in. */
export function showPaused(now) {
  if (asking || now === undefined) return;
  paused = now;
  $("pause").hidden = false;
  const words = paused ? "Resume" : "Pause";
  if ($("pause").textContent !== words) $("pause").textContent = words;
  $("pause").title = paused ? "Compute again" : "Compute nothing until resumed; texts in the cache are still answered";
}

$("pause").addEventListener("click", async () => {
  if (asking) return;
  asking = true;
  $("pause-error").textContent = "";
  try {
    const { answer } = await ask(paused ? "v1/admin/resume" : "v1/admin/pause", {});
    asking = false;
    showPaused(answer.paused);
    announce(answer.paused ? "Paused" : "Resumed");
    dispatchEvent(new Event("changed"));
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (failure.status === 401) dispatchEvent(new Event("locked"));
    else $("pause-error").textContent = advice(failure);
  } finally {
    asking = false;
  }
});
