// A heat map of similarities, as SVG: one row for each token of a text, one column for each token of another.

import { draw, make } from "./page.js";

const CELL = 26;
const LONGEST = 12;
const STEPS = 8;

const shortened = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text);
const visible = (text) => text.trim() || "␣";

/** Return elements: what the chosen cell shows, the map, and its scale. values: values[row][column]. */
export function heatMap(rows, columns, values) {
  const all = values.flat();
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const strength = (value) => (0.06 + (0.94 * (value - low)) / (high - low || 1)).toFixed(3);
  const readout = make("p", { class: "readout", "aria-hidden": "true" }, "Point at a square, or move with the arrow keys.");
  const longest = (labels) => Math.max(...labels.map((label) => shortened(visible(label)).length));
  const [left, top] = [20 + 7.2 * longest(rows), 24 + 5.6 * longest(columns)];
  const width = left + columns.length * CELL + 60;
  const height = top + rows.length * CELL + 2;
  const svg = draw("svg", {
    class: "heat",
    role: "grid",
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    "aria-label": `Similarity of ${rows.length} tokens of the first text to ${columns.length} tokens of the second`,
    "aria-readonly": "true",
  });
  const heads = columns.map((label, column) => {
    const [x, y] = [left + (column + 0.6) * CELL, top - 8];
    return draw("text", { role: "columnheader", x, y, transform: `rotate(-50 ${x} ${y})` }, shortened(visible(label)));
  });
  svg.append(draw("g", { role: "row" }, ...heads));
  const cells = values.map((line, row) => {
    const best = line.indexOf(Math.max(...line));
    return line.map((value, column) =>
      draw("rect", {
        role: "gridcell",
        class: column === best ? "cell best" : "cell",
        x: left + column * CELL + 1.5,
        y: top + row * CELL + 1.5,
        width: CELL - 3,
        height: CELL - 3,
        rx: 3,
        "fill-opacity": strength(value),
        tabindex: row || column ? -1 : 0,
        "data-row": row,
        "data-column": column,
        "aria-label": `${visible(rows[row])}, ${visible(columns[column])}: ${value.toFixed(3)}${column === best ? ", the best of its row" : ""}`,
      }),
    );
  });
  cells.forEach((line, row) => {
    const head = draw("text", { role: "rowheader", class: "row", x: left - 8, y: top + row * CELL + 18 }, shortened(visible(rows[row])));
    svg.append(draw("g", { role: "row" }, head, ...line));
  });
  const show = ({ dataset: { row, column } }) => readout.replaceChildren(make("b", {}, values[row][column].toFixed(3)), ` ${visible(rows[row])} – ${visible(columns[column])}`);
  const frame = make("div", { class: "heat-frame" }, svg);
  follow(frame, cells, show);
  return [readout, frame, scale(low, high, strength)];
}

/** Show a cell that the pointer is on or that has the focus; arrow keys, Home and End move the focus.
 *
 * The frame listens: Chromium lets the Tab key reach an SVG element that listens to focus.
 */
function follow(frame, cells, show) {
  const cellOf = (event) => event.target.closest(".cell");
  for (const kind of ["pointerover", "focusin"]) frame.addEventListener(kind, (event) => cellOf(event) && show(cellOf(event)));
  const enter = (cell) => {
    frame.querySelector("[tabindex='0']").setAttribute("tabindex", "-1");
    cell.setAttribute("tabindex", "0");
    cell.focus();
  };
  frame.addEventListener("click", (event) => cellOf(event) && enter(cellOf(event)));
  frame.addEventListener("keydown", (event) => {
    const cell = cellOf(event);
    if (!cell || event.altKey || event.ctrlKey || event.metaKey) return;
    const [row, column] = [Number(cell.dataset.row), Number(cell.dataset.column)];
    const moves = { ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], Home: [row, 0], End: [row, cells[0].length - 1] };
    const next = moves[event.key];
    if (!next) return;
    event.preventDefault();
    const found = cells[next[0]]?.[next[1]];
    if (found) enter(found);
  });
}

/** The colours from the lowest to the highest value. */
function scale(low, high, strength) {
  const steps = Array.from({ length: STEPS }, (_, step) => low + ((high - low) * step) / (STEPS - 1));
  const boxes = steps.map((value, step) => draw("rect", { class: "cell", x: step * 16, y: 0, width: 15, height: 10, rx: 2, "fill-opacity": strength(value) }));
  const svg = draw("svg", { class: "heat", width: STEPS * 16, height: 10, "aria-hidden": "true" }, ...boxes);
  return make("p", { class: "scale" }, `${low.toFixed(2)} `, svg, ` ${high.toFixed(2)}; framed: the best of each row`);
}
