// The fleet at a glance: how many vehicles are how fresh, where they are, how full they are, and which they are.

import { card, el, write } from "./dom.js";
import { FRESHNESS, number, plural, word } from "./format.js";
import { histogram } from "./histogram.js";
import { map } from "./map.js";
import { shape } from "./marks.js";
import { repeat } from "./repeat.js";
import { vehicles } from "./vehicles.js";

/** How often the counts and the page of the table are asked for: what no event tells is not older than this. */
const ASK = 5_000;
/** How soon all vehicles may be read again: where counts differ from what is shown, or no event tells. */
const REREAD = 30_000;

export function fleet(app) {
  const { store, session, kept } = app;
  const stopped = new AbortController();
  let summary = null;
  let readAt = Date.now();
  let differed = false;

  const plot = map(store, app);
  const charge = histogram(store);
  const list = vehicles(app, stopped.signal, (freshness) => press(freshness));
  const lead = el("p", { class: "lead" }, `Workspace ${session.workspace}`);
  const tiles = FRESHNESS.map((freshness) => tile(freshness, () => list.filter(list.state.freshness === freshness ? "" : freshness)));
  const incidents = el("div", { class: "incidents" });

  function press(freshness) {
    for (const one of tiles) one.button.setAttribute("aria-pressed", String(one.freshness === freshness));
  }

  function count() {
    const counts = Object.fromEntries(FRESHNESS.map((name) => [name, 0]));
    for (const vehicle of store.vehicles.values()) if (vehicle.freshness in counts) counts[vehicle.freshness] += 1;
    return counts;
  }

  function showCounts() {
    if (!summary) return;
    for (const one of tiles) one.show(summary[one.freshness] ?? 0, summary.vehicles ?? 0);
    write(lead, `Workspace ${session.workspace} · ${plural(summary.vehicles ?? 0, "vehicle")}`);
    const open = (summary.incidents ?? []).map((incident) =>
      el("li", null, el("strong", null, `${incident.provider}: outage`), ` of connection ${incident.connection} since ${new Date(incident.opened_at).toLocaleString("en-GB")} (${word(incident.reason)}), ${plural(incident.vehicles, "vehicle")} behind it`));
    const lag = summary.pipeline_lag_seconds;
    if (lag > 60) open.push(el("li", null, el("strong", null, "Headrace is behind"), ` by ${number(lag)} s: vehicles may be fresher than they seem`));
    incidents.hidden = open.length === 0;
    incidents.replaceChildren(el("ul", null, open));
  }

  async function ask() {
    // Either is shown without the other.
    const [counted, listed] = await Promise.all([askCounts(), list.refresh()]);
    // The table has told of its error itself.
    if (counted && !listed) app.failed(counted);
    const error = listed ?? counted ?? store.failure;
    settle(!counted);
    if (!error) app.worked();
    return error;
  }

  async function askCounts() {
    try {
      summary = await session.api.get(`${session.base}/health`, null, stopped.signal);
      showCounts();
      return null;
    } catch (error) {
      return error;
    }
  }

  /** Reads all vehicles again where that failed, the counts say twice that what is shown is not so, or nobody tells
   * of moves. */
  function settle(isCounted) {
    if (stopped.signal.aborted || store.isLoading) return;
    const counts = count();
    const differs = isCounted && store.complete && !store.truncated && FRESHNESS.some((name) => counts[name] !== summary[name]);
    const isDoubtful = store.complete && ((differs && differed) || app.link !== "live");
    if (store.failure || (isDoubtful && Date.now() - readAt > REREAD)) {
      readAt = Date.now();
      store.load().catch(app.failed);
    }
    differed = differs;
  }

  let rest;
  const unlisten = store.listen((changed) => {
    plot.changed();
    charge.changed();
    list.changed(changed);
  });

  const element = el("div", { class: "fleet" },
    el("div", { class: "page-head" }, el("h1", { tabindex: "-1" }, "Fleet"), lead),
    incidents,
    el("div", { class: "tiles", role: "group", "aria-label": "Vehicles by freshness; press to filter the table" }, tiles.map((one) => one.button)),
    el("div", { class: "pair" },
      card("Positions", { class: "map-card" }, plot.element),
      card("State of charge", null, charge.element)),
    list.element);
  incidents.hidden = true;
  press(list.state.freshness);

  return {
    title: "Fleet",
    element,
    focus: null,
    start() {
      rest = repeat(ask, ASK);
      plot.start();
      charge.changed();
      list.start();
      if (kept.opened) this.focus = list.linkOf(kept.opened);
      kept.opened = null;
    },
    tick() {
      list.tick();
    },
    stop() {
      stopped.abort();
      rest();
      unlisten();
      plot.stop();
      charge.stop();
    },
  };
}

function tile(freshness, pressed) {
  const figure = el("span", { class: "figure" }, "–");
  const share = el("span", { class: "share" });
  const bar = el("span", { class: "share-bar", "aria-hidden": "true" });
  const filled = el("span", { class: `share-fill fill-${freshness}` });
  bar.append(filled);
  const button = el("button", { type: "button", class: "tile", "aria-pressed": "false", click: pressed },
    el("span", { class: "tile-name" }, shape(freshness), word(freshness)), figure, share, bar);
  return {
    freshness,
    button,
    show(count, all) {
      write(figure, number(count));
      const part = all ? count / all : 0;
      write(share, all ? `${number(part * 100, part > 0 && part < 0.01 ? 1 : 0)} %` : "");
      filled.style.width = `${part * 100}%`;
    },
  };
}
