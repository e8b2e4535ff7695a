// What the daemon says to the tab Settings, for the scripts that draw its parts.

import { $, ask } from "./page.js";
import { Actions, watch } from "./manage.js";

/** The latest answers by part: settings, keys, origins, aliases, cache; and the names of models. Null before the first ones. */
export const shown = { now: null };
/** Functions that draw a part. */
export const parts = [];
export const actions = new Actions(draw);

export function draw() {
  if (shown.now) for (const part of parts) part(shown.now);
}

const ROUTES = ["settings", "keys", "origins", "aliases", "cache"];

async function load() {
  const answers = await Promise.all([...ROUTES.map((route) => ask(`v1/admin/${route}`)), ask("v1/models")]);
  const { data } = answers.pop().answer;
  const models = data.filter((model) => !model.root && !model.input_type).map((model) => model.id);
  return { ...Object.fromEntries(ROUTES.map((route, index) => [route, answers[index].answer])), models };
}

/** Load everything again: when the tab is shown, and after each change. */
export const reload = watch(
  $("settings"),
  load,
  (answers) => {
    shown.now = answers;
    draw();
  },
  () => null,
);
