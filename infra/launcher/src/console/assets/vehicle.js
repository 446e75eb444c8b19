// One vehicle: its signals, how fresh it is and was, what became of its latest observations, and its events.

import { explain } from "./api.js";
import { card, el, mark, table, write } from "./dom.js";
import { duration, moment, number, reading, signalName, span, word } from "./format.js";
import { badge } from "./marks.js";
import { repeat } from "./repeat.js";
import { strip } from "./strip.js";

/** How often what no event tells of is asked for. */
const ASK = 10_000;
/** How soon after an event the lists are asked for. */
const SOON = 1_000;
const LISTED = 25;

export function vehicle(app, id) {
  const { session, store } = app;
  const base = `${session.base}/vehicles/${encodeURIComponent(id)}`;
  const stopped = new AbortController();
  let health = null;
  let history;
  let rest;
  let soon;

  const status = el("div", { class: "facts" });
  const signals = signalTable(store, id);
  const lists = [
    list("Freshness, as it was", () => session.api.get(`${base}/health/history`, { limit: LISTED }, stopped.signal), freshnessRows,
      ["When", "Status", "Before", "Why", "Last heard"], "No change has been found yet.", (items) => strip(items, store.now())),
    list("Latest verdicts", () => session.api.get(`${base}/verdicts`, null, stopped.signal), verdictRows,
      ["Decided", "Signal", "Verdict", "Value", "Observed", "Provider", "Against"], "Nothing has been decided yet."),
    list("Latest events", () => session.api.get(`${base}/events`, { limit: LISTED }, stopped.signal), eventRows,
      ["When", "Event", "What"], "No events are in the log."),
  ];

  function showHealth() {
    const known = store.vehicles.get(id);
    const freshness = known?.freshness ?? health?.freshness;
    const facts = [["Status", badge(freshness)]];
    if (known?.heard) facts.push(["Last heard", el("span", { "data-heard": "" })]);
    if (health) {
      if (health.freshness === freshness) facts.push([`${word(freshness)} since`, moment(health.since)]);
      if (health.cause && health.freshness === freshness) facts.push(["Because", word(health.cause)]);
      if (health.provider) facts.push(["Heard through", health.provider]);
      facts.push(["Stale after", span(health.stale_after_seconds)], ["Offline after", span(health.offline_after_seconds)]);
    }
    if (known) facts.push(["Version", number(known.version)]);
    status.replaceChildren(...facts.map(([name, value]) => el("div", { class: "fact" }, el("span", { class: "fact-name" }, name), el("span", { class: "fact-value" }, value))));
    tick();
  }

  function tick() {
    const heard = store.vehicles.get(id)?.heard;
    const node = status.querySelector("[data-heard]");
    if (node && heard) write(node, `${duration((store.now() - heard) / 1000)} ago`);
    signals.tick();
  }

  async function ask() {
    const asked = store.history;
    history = asked;
    const [snapshot, found] = await Promise.allSettled([
      session.api.get(`${base}/snapshot`, null, stopped.signal),
      session.api.get(`${base}/health`, null, stopped.signal),
    ]);
    if (asked !== store.history) return ask();
    // Either is shown without the other.
    if (found.value) {
      health = found.value;
      store.merge([{ vehicle: id, freshness: health.freshness, last_received_at: health.last_received_at }]);
    }
    if (snapshot.value) store.merge([snapshot.value]);
    showHealth();
    signals.update();
    const error = snapshot.reason ?? found.reason;
    if (error) app.failed(error);
    else app.worked();
    if (error && (!error.status || error.status === 429)) return error;
    await Promise.all(lists.map((one) => one.ask()));
    return null;
  }

  function changed(ids) {
    if (!ids.has(id)) return;
    if (history !== store.history) {
      // Everything was forgotten, and not all signals are read with all vehicles.
      void ask();
      return;
    }
    signals.update();
    showHealth();
    soon ??= setTimeout(() => {
      soon = null;
      for (const one of lists) void one.ask();
    }, SOON);
  }

  const unlisten = store.listen(changed);
  const element = el("div", { class: "vehicle" },
    el("p", { class: "back" }, el("a", { href: "#/" }, "← Fleet")),
    el("div", { class: "page-head" }, el("h1", { tabindex: "-1" }, id)),
    status,
    card("Signals", null, signals.element),
    lists.map((one) => one.element));

  return {
    title: id,
    element,
    start() {
      app.kept.opened = id;
      showHealth();
      signals.update();
      rest = repeat(ask, ASK);
    },
    tick,
    stop() {
      stopped.abort();
      rest();
      clearTimeout(soon);
      unlisten();
    },
  };
}

function signalTable(store, id) {
  const body = el("tbody");
  const rows = new Map();
  const empty = el("tr", null, el("td", { class: "empty", colspan: 5 }, "No signal is known yet."));

  function row(name) {
    const cells = ["value number", "age number", "", ""].map((of) => el("td", { class: of || null }));
    const element = el("tr", null, el("th", { scope: "row" }, signalName(name)), cells);
    let isNew = true;
    const [value, age, provider, remark] = cells;
    return {
      element,
      update(found) {
        if (write(value, reading(name, found)) && !isNew) mark(value);
        write(provider, found.provider ?? "–");
        write(remark, found.clock_ahead ? "Clock ahead" : "");
        isNew = false;
        this.tick(found);
      },
      tick(found) {
        write(age, `${duration((store.now() - Date.parse(found.observed_at)) / 1000)} ago`);
        age.title = moment(found.observed_at);
      },
    };
  }

  const note = el("p", { class: "hint", hidden: true }, "Clock ahead: the vehicle’s clock was ahead of Headrace’s, so the time is when the value was received.");
  return {
    element: el("div", null, el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Table: Signals" },
      el("table", { class: "signals" }, el("caption", { class: "unseen" }, "Signals"),
        el("thead", null, el("tr", null, ["Signal", "Value", "Observed", "Provider", "Remark"].map((name, index) => el("th", { scope: "col", class: index === 1 || index === 2 ? "number" : null }, name)))), body)), note),
    update() {
      const found = Object.entries(store.vehicles.get(id)?.signals ?? {}).filter(([, one]) => one?.value !== undefined);
      found.sort(([one], [other]) => signalName(one).localeCompare(signalName(other)));
      for (const [name, one] of found) {
        if (!rows.has(name)) rows.set(name, row(name));
        rows.get(name).update(one);
      }
      note.hidden = !found.some(([, one]) => one.clock_ahead);
      const wanted = found.length ? found.map(([name]) => rows.get(name).element) : [empty];
      if (wanted.length !== body.children.length || wanted.some((one, index) => one !== body.children[index])) body.replaceChildren(...wanted);
    },
    tick() {
      const known = store.vehicles.get(id)?.signals ?? {};
      for (const [name, one] of rows) if (known[name]) one.tick(known[name]);
    },
  };
}

/** A part of the page that asks for itself and fails by itself. */
function list(title, get, rowsOf, columns, empty, above) {
  const content = el("div", null, el("p", { class: "hint" }, "Loading …"));
  let shown = null;
  return {
    element: card(title, null, content),
    async ask() {
      try {
        const { items } = await get();
        const text = JSON.stringify(items);
        if (text === shown) return;
        shown = text;
        content.replaceChildren(...[above?.(items), table(title, columns, rowsOf(items), empty)].filter(Boolean));
      } catch (error) {
        if (error.name === "AbortError") return;
        shown = null;
        content.replaceChildren(el("p", { class: "hint" }, explain(error)));
      }
    },
  };
}

function freshnessRows(items) {
  return items.map((item) => [moment(item.since), badge(item.freshness), item.previous ? word(item.previous) : "–", item.cause ? word(item.cause) : "–", item.last_received_at ? moment(item.last_received_at) : "–"]);
}

function verdictRows(items) {
  return items.slice(0, 2 * LISTED).map((item) => [
    moment(item.decided_at), signalName(item.signal), el("span", { class: `verdict verdict-${item.verdict === "accepted" ? "accepted" : "other"}` }, word(item.verdict)),
    reading(item.signal, item.reading), item.reading ? `${moment(item.reading.observed_at)}${item.clock_ahead ? " (clock ahead)" : ""}` : "–",
    item.reading?.provider ?? "–", item.against ? reading(item.signal, item.against) : "–",
  ]);
}

function eventRows(items) {
  return items.map((event) => [moment(event.time), event.type, what(event)]);
}

/** What an event says, in a line. */
function what({ type, data = {} }) {
  switch (type) {
    case "vehicle.registered":
      return `Registered through ${data.provider}`;
    case "vehicle.snapshot.changed": {
      const changed = (data.changed ?? []).map((name) => `${signalName(name)} ${reading(name, data.signals?.[name])}`);
      return `Version ${number(data.version)}${changed.length ? `: ${changed.join(", ")}` : ": small moves"}`;
    }
    case "vehicle.health.changed":
      return `${word(data.freshness)}${data.previous ? `, before ${word(data.previous).toLowerCase()}` : ""}${data.cause ? `: ${word(data.cause).toLowerCase()}` : ""}`;
    case "vehicles.seen":
      return "Heard from, values as before";
    default:
      return "";
  }
}
