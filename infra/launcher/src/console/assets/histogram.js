// How full the fleet's batteries are: a histogram in steps of 10 %, with the same as a table.

import { el, svg, table, write } from "./dom.js";
import { number, plural } from "./format.js";
import { valueOf } from "./store.js";

const BINS = 10;
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [420, 230, 8, 26, 22];
/** How soon it is drawn again. */
const REDRAW = 1_000;

/** The count of each step; a full battery belongs to the last. */
export function bins(values) {
  const counts = new Array(BINS).fill(0);
  for (const value of values) counts[Math.min(BINS - 1, Math.max(0, Math.floor(value / (100 / BINS))))] += 1;
  return counts;
}

const step = (index) => `${index * 10}–${(index + 1) * 10} %`;

export function histogram(store) {
  const title = svg("title", { id: "soc-title" });
  const width = (WIDTH - 2 * LEFT) / BINS;
  const bars = Array.from({ length: BINS }, (_, index) => {
    const x = LEFT + index * width;
    return {
      bar: svg("rect", { class: index < 2 ? "bar bar-low" : "bar", x: x + 2, width: width - 4, rx: 3, y: HEIGHT - BOTTOM, height: 0 }),
      label: svg("text", { class: "bar-count", x: x + width / 2, y: HEIGHT - BOTTOM - 6, "text-anchor": "middle" }),
    };
  });
  const ticks = Array.from({ length: BINS / 2 + 1 }, (_, index) =>
    svg("text", { class: "axis", x: LEFT + index * 2 * width, y: HEIGHT - 7, "text-anchor": index === 0 ? "start" : index === BINS / 2 ? "end" : "middle" }, `${index * 20} %`));
  const chart = svg("svg", { class: "histogram", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-labelledby": "soc-title" },
    title,
    svg("line", { class: "rule", x1: LEFT, x2: WIDTH - LEFT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
    bars.flatMap(({ bar, label }) => [bar, label]), ticks);
  const summary = el("p", { class: "hint" });
  const details = el("details", null, el("summary", null, "Show as a table"));
  let timer = null;
  let drawn = "";

  function draw() {
    timer = null;
    const values = [];
    for (const vehicle of store.vehicles.values()) {
      const value = valueOf(vehicle, "state_of_charge");
      if (value !== null) values.push(value);
    }
    const counts = bins(values);
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    const now = `${counts} ${number(mean)}`;
    // Nor is a table replaced under its reader for nothing.
    if (now === drawn) return;
    drawn = now;
    const most = Math.max(1, ...counts);
    counts.forEach((count, index) => {
      const height = (HEIGHT - BOTTOM - TOP) * (count / most);
      const { bar, label } = bars[index];
      bar.setAttribute("height", height);
      bar.setAttribute("y", HEIGHT - BOTTOM - height);
      label.setAttribute("y", HEIGHT - BOTTOM - height - 6);
      write(label, count ? number(count) : "");
    });
    const low = counts[0] + counts[1];
    const text = values.length ? `${plural(values.length, "vehicle")}, ${number(mean)} % on average, ${number(low)} below 20 %` : "No vehicle has told its state of charge yet.";
    write(summary, text);
    write(title, `State of charge: ${text}`);
    const rows = counts.map((count, index) => [step(index), number(count)]);
    const shown = table("Vehicles by state of charge", ["State of charge", { name: "Vehicles", number: true }], rows);
    details.replaceChildren(details.firstChild, shown);
  }

  return {
    element: el("div", null, chart, summary, details),
    changed() {
      if (timer === null) {
        draw();
        timer = setTimeout(draw, REDRAW);
      }
    },
    stop() {
      clearTimeout(timer);
    },
  };
}
