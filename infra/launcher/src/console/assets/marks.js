// Freshness as a shape with a colour and a word: colour never tells it alone.

import { el, svg } from "./dom.js";
import { word } from "./format.js";

/** The outline of a freshness in a square of 12 by 12, for SVG and canvas alike. */
export const SHAPES = {
  fresh: "M6 1a5 5 0 1 0 0 10a5 5 0 1 0 0-10z",
  stale: "M6 0.8L11.6 10.8H0.4z",
  offline: "M1.4 1.4H10.6V10.6H1.4z",
  never_seen: "M6 1a5 5 0 1 0 0 10a5 5 0 1 0 0-10z",
};

/** The shape alone. */
export function shape(freshness) {
  const known = SHAPES[freshness] ? freshness : "never_seen";
  return svg("svg", { class: `shape shape-${known}`, viewBox: "0 0 12 12", width: 12, height: 12, "aria-hidden": "true", focusable: "false" },
    svg("path", { d: SHAPES[known] }));
}

/** The shape with its word. */
export function badge(freshness) {
  return el("span", { class: `badge badge-${SHAPES[freshness] ? freshness : "never_seen"}` }, shape(freshness), el("span", null, freshness ? word(freshness) : "Unknown"));
}
