// The tab Settings: all settings with their sources, and the restart that some changes need.

import { $, Failure, announce, ask, make, marked } from "./page.js";
import { advice, button, onButtons, redraw, tag } from "./manage.js";
import { actions, draw, parts, reload, shown } from "./settings_state.js";

const RESTART_MS = 90_000;

let editing = null;

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
  const lines = text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
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
  const label = {
    id: `edit-${setting.name}`,
    "data-key": "field",
    spellcheck: "false",
    autocomplete: "off",
    "aria-describedby": `about-${setting.name}`,
  };
  const choices = setting.kind === "boolean" ? ["true", "false"] : setting.choices;
  if (choices) {
    const option = (one) =>
      make(
        "option",
        { value: one, ...(String(value) === one ? { selected: "" } : {}) },
        setting.kind === "boolean" ? (one === "true" ? "on" : "off") : one,
      );
    return make("select", { ...label }, ...choices.map(option));
  }
  if (setting.kind === "list") return make("textarea", { rows: "3", ...label }, (value ?? []).join("\n"));
  if (setting.kind === "table")
    return make(
      "textarea",
      { rows: "3", ...label },
      Object.entries(value ?? {})
        .map(([name, one]) => `${name}=${one}`)
        .join("\n"),
    );
  if (setting.secret) return make("input", { type: "password", ...label, autocomplete: "new-password" });
  const limits = {
    ...(setting.minimum == null ? {} : { min: setting.minimum }),
    ...(setting.maximum == null ? {} : { max: setting.maximum }),
  };
  const number = setting.kind === "integer" || setting.kind === "number";
  return make("input", {
    ...(number ? { type: "number", step: setting.kind === "integer" ? "1" : "any", ...limits } : {}),
    value: value ?? "",
    ...label,
  });
}

const HOW = { list: "One a line.", table: "One a line, as NAME=VALUE." };
const SOURCES = {
  flag: "from a flag of the command line",
  variable: "from a variable of the environment",
  "config.toml": "from config.toml",
};

// --- all settings ----------------------------------------------------------------------------------------------------

function settingRow(setting) {
  const name = setting.name;
  const row = `setting ${name}`;
  const busy = actions.busy.has(row);
  const tags = [
    ...(SOURCES[setting.source] ? [tag(SOURCES[setting.source])] : []),
    ...(setting.restart_needed ? [make("span", { class: "tag warn" }, "waits for a restart")] : []),
  ];
  const view = make(
    "li",
    { class: "setting", "data-key": name, "data-row": row },
    make("div", { class: "head" }, make("code", { class: "name" }, name), make("div", { class: "tags" }, ...tags)),
    make(
      "p",
      { class: "faint", id: `about-${name}` },
      ...marked([setting.description, editing === name ? HOW[setting.kind] : ""].filter(Boolean).join(" ")),
    ),
  );
  if (setting.note) view.append(make("p", { class: "why" }, setting.note));
  if (editing === name) {
    view.append(
      make(
        "form",
        { class: "line", "data-key": "form", "data-setting": name },
        make("label", { for: `edit-${name}` }, "Value"),
        field(setting),
        make(
          "button",
          {
            type: "submit",
            "data-key": "save",
            "data-do": "save",
            "aria-label": `Save ${name}`,
            ...(busy ? { "aria-disabled": "true" } : {}),
          },
          busy ? "Saving…" : "Save",
        ),
        button("cancel", "Cancel", `Cancel the change of ${name}`),
      ),
    );
  } else {
    const value = make("div", { class: "line", "data-key": "value" }, make("code", { class: "value" }, words(setting, setting.value)));
    if (setting.restart_needed && !setting.secret)
      value.append(make("span", { class: "faint" }, `after a restart: ${words(setting, setting.written ?? setting.default)}`));
    value.append(
      make(
        "div",
        { class: "buttons" },
        button("edit", "Edit", `Edit ${name}`, { busy }),
        ...(isWritten(setting) ? [button("unset", "Unset", `Unset ${name}, so that it has its default`, { busy })] : []),
      ),
    );
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
  redraw(
    $("settings-list"),
    found.length
      ? found.map(settingRow)
      : [make("li", { class: "faint", "data-key": "" }, "No setting matches. Change the search or the filter.")],
  );
}

parts.push(({ settings }) => drawSettings(settings));

// --- what the user does ----------------------------------------------------------------------------------------------

const setting = (name) => shown.now.settings.settings.find((one) => one.name === name);

async function changeSetting(name, value) {
  const answer = await actions.run(
    `setting ${name}`,
    "save",
    "v1/admin/settings",
    { name, value },
    value === null ? `${name} is unset` : `${name} is saved`,
  );
  if (answer) {
    if (editing === name) edit(null);
    dispatchEvent(new Event("changed"));
    await reload();
  }
}

function edit(name) {
  const before = editing;
  editing = name;
  draw();
  if (name) $(`edit-${name}`).focus();
  else
    [...$("settings-list").querySelectorAll("[data-do=edit]")]
      .find((one) => one.closest("[data-row]").dataset.row === `setting ${before}`)
      ?.focus();
}

$("settings-list").addEventListener("submit", (event) => {
  event.preventDefault();
  const { name } = setting(event.target.dataset.setting);
  changeSetting(name, typed(setting(name), $(`edit-${name}`).value));
});
$("settings-list").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && editing) edit(null);
});

onButtons($("settings-list"), (action, row) => {
  const name = row.slice(row.indexOf(" ") + 1);
  if (action === "edit") edit(name);
  else if (action === "unset") changeSetting(name, null);
  else if (action === "cancel") {
    actions.errors.delete(row);
    edit(null);
  }
});

for (const event of ["input", "change"]) $("settings-filters").addEventListener(event, draw);
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

/** Return the address that a restart gives this page; null if it stays as it is, or if the system chooses it. */
function addressAfter() {
  const { restart_needed, value, written, default: usual } = setting("port");
  const there = new URL(document.baseURI);
  if (!restart_needed || there.port !== String(value)) return null;
  there.port = written ?? usual;
  return there.port === "0" ? null : there.href;
}

$("restart-now").addEventListener("click", async () => {
  if (restarting) return;
  restarting = true;
  $("restart-error").textContent = "";
  $("restart-words").textContent = "The daemon ends its requests and starts again.";
  $("restart-now").setAttribute("aria-disabled", "true");
  const since = performance.now();
  const moved = addressAfter();
  try {
    await ask("v1/admin/restart", {});
    if (moved) {
      // No page may ask another address whether the daemon is there.
      $("restart-now").hidden = true;
      $("restart-words").replaceChildren("The daemon starts again at another address, with this page: ", make("a", { href: moved }, moved));
      announce($("restart-words").textContent);
      return;
    }
    if (await restarted(since)) announce("The daemon was started again");
    else
      $("restart-error").textContent =
        "The daemon has not started again. See the end of its log on the machine that it runs on: edgeembed logs.";
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (failure.status === 401) dispatchEvent(new Event("locked"));
    else $("restart-error").textContent = advice(failure);
  } finally {
    restarting = $("restart-now").hidden;
    $("restart-now").removeAttribute("aria-disabled");
    dispatchEvent(new Event("changed"));
    if (!$("restart-error").textContent) $("settings").focus();
    await reload();
  }
});
