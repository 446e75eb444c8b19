// How fresh a vehicle was, as a strip of time: the fresher, the higher, so that colour does not tell it alone.

import { el, svg } from "./dom.js";
import { moment, word } from "./format.js";

const WIDTH = 1000;
const HEIGHTS = { fresh: 40, stale: 26, offline: 14, never_seen: 4 };
const TALL = 40;
/** What was short is seen all the same. */
const THINNEST = 3;

/** The strip of changes, the newest first, up to `now`; nothing where there is none. */
export function strip(items, now) {
  const oldest = Date.parse(items.at(-1)?.since ?? "");
  if (!(oldest < now)) return null;
  const x = (time) => ((Math.min(Math.max(time, oldest), now) - oldest) / (now - oldest)) * WIDTH;
  const bars = items.map((item, index) => {
    const from = x(Date.parse(item.since));
    const to = index === 0 ? WIDTH : x(Date.parse(items[index - 1].since));
    const freshness = item.freshness in HEIGHTS ? item.freshness : "never_seen";
    const height = HEIGHTS[freshness];
    return svg("rect", { class: `span-${freshness}`, x: from, y: TALL - height, width: Math.max(to - from, THINNEST), height });
  });
  const label = `${word(items[0].freshness)} now; the changes since ${moment(items.at(-1).since)} are in the table`;
  return el("figure", { class: "strip" },
    svg("svg", { viewBox: `0 0 ${WIDTH} ${TALL}`, preserveAspectRatio: "none", role: "img", "aria-label": label }, bars.reverse()),
    el("figcaption", { class: "strip-ends" }, el("span", null, moment(items.at(-1).since)), el("span", null, "now")));
}
