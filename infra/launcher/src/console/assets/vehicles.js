// The table of vehicles: searched, filtered and paged by the server; sorted by anything but the name, from
// what is known here. Only one page of rows ever exists.

import { el, mark, write } from "./dom.js";
import { duration, FRESHNESS, number, plural, reading, signalName, word } from "./format.js";
import { badge } from "./marks.js";
import { valueOf } from "./store.js";

const ROWS = 50;
const TYPING = 250;
const COLLATOR = new Intl.Collator("en", { numeric: true });

const signal = (name, from) => ({
  name: signalName(name),
  class: `number from-${from}`,
  order: (vehicle) => valueOf(vehicle, name),
  text: (vehicle) => reading(name, vehicle.signals[name]),
});

const COLUMNS = {
  vehicle: { name: "Vehicle", order: (vehicle) => vehicle.vehicle },
  freshness: { name: "Status", order: (vehicle) => FRESHNESS.indexOf(vehicle.freshness) },
  state_of_charge: { ...signal("state_of_charge", "phone"), name: "Charge" },
  speed: signal("speed", "tablet"),
  power: signal("power", "desk"),
  odometer: signal("odometer", "desk"),
  provider: { name: "Provider", class: "from-tablet", text: (vehicle) => newest(vehicle)?.provider ?? "–" },
  heard: { name: "Last heard", class: "number", order: (vehicle) => vehicle.heard },
};

/** The reading that was received last. */
function newest(vehicle) {
  const readings = Object.values(vehicle.signals);
  return readings.reduce((found, one) => (!found || one.received_at > found.received_at ? one : found), null);
}

export function vehicles(app, stopped, filtered) {
  const { store, session, kept } = app;
  const state = (kept.table ??= { search: "", freshness: "", sort: "vehicle", down: false, page: 0, cursors: [null] });
  let ids = [];
  let more = false;
  let rows = new Map();
  let asking = null;
  let typing;

  const search = el("input", { id: "search", type: "search", value: state.search, placeholder: "Part of the vehicle’s name", autocomplete: "off", spellcheck: "false", input: () => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ search: search.value.trim() }), TYPING);
  } });
  const pick = el("select", { id: "freshness", change: () => filter(pick.value) },
    el("option", { value: "" }, "All"), FRESHNESS.map((name) => el("option", { value: name }, word(name))));
  pick.value = state.freshness;
  const told = el("p", { class: "hint", role: "status" });
  const heads = Object.entries(COLUMNS).map(([key, column]) => head(key, column));
  const body = el("tbody");
  const before = el("button", { type: "button", click: () => turn(-1) }, "Previous");
  const next = el("button", { type: "button", click: () => turn(1) }, "Next");
  const where = el("span", { class: "where" });

  function head(key, column) {
    const content = column.order ? el("button", { type: "button", class: "sort", click: () => sort(key) }, column.name, el("span", { class: "arrow", "aria-hidden": "true" })) : column.name;
    return el("th", { scope: "col", class: column.class, "data-key": key }, content);
  }

  function showSort() {
    for (const one of heads) {
      const isKey = one.dataset.key === state.sort;
      if (isKey) one.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else one.removeAttribute("aria-sort");
    }
  }

  /** By the name, upwards, is how the server has them. */
  const isServers = () => state.sort === "vehicle" && !state.down;

  function sort(key) {
    // Numbers are first looked at from the top, names from the beginning.
    const down = state.sort === key ? !state.down : !["vehicle", "freshness"].includes(key);
    change({ sort: key, down });
  }

  function filter(freshness) {
    pick.value = freshness;
    change({ freshness });
  }

  function change(changes) {
    Object.assign(state, changes, { page: 0, cursors: [null] });
    showSort();
    filtered(state.freshness);
    void ask();
  }

  function turn(by) {
    state.page = Math.max(0, state.page + by);
    void ask().then(() => element.scrollIntoView({ block: "start" }));
  }

  async function ask() {
    asking?.abort();
    asking = new AbortController();
    const signal = AbortSignal.any([asking.signal, stopped]);
    try {
      if (isServers()) await askServer(signal);
      else sortHere();
      show();
      return null;
    } catch (error) {
      // A newer question has taken its place, or the page has gone.
      if (error.name === "AbortError") return null;
      app.failed(error);
      return error;
    }
  }

  async function askServer(signal) {
    const { search, freshness, page, cursors } = state;
    const found = await store.list({ limit: ROWS, search, freshness, after: cursors[page] }, signal);
    ids = found.items.map((item) => item.vehicle);
    more = Boolean(found.next);
    cursors[page + 1] = found.next;
    if (ids.length === 0 && page > 0) {
      // What was on it is gone.
      Object.assign(state, { page: 0, cursors: [null] });
      await askServer(signal);
    }
  }

  function matching() {
    const wanted = state.search.toLowerCase();
    return [...store.vehicles.values()].filter((vehicle) =>
      (!state.freshness || vehicle.freshness === state.freshness) && (!wanted || vehicle.vehicle.toLowerCase().includes(wanted)));
  }

  function sortHere() {
    const { order } = COLUMNS[state.sort];
    const sign = state.down ? -1 : 1;
    const keyed = matching().map((vehicle) => ({ vehicle, key: order(vehicle) }));
    keyed.sort((one, other) => {
      // What is not known is last, whichever way.
      if ((one.key === null) !== (other.key === null)) return one.key === null ? 1 : -1;
      const by = typeof one.key === "string" ? COLLATOR.compare(one.key, other.key) : one.key - other.key;
      return sign * by || COLLATOR.compare(one.vehicle.vehicle, other.vehicle.vehicle);
    });
    state.page = Math.min(state.page, Math.max(0, Math.ceil(keyed.length / ROWS) - 1));
    ids = keyed.slice(state.page * ROWS, (state.page + 1) * ROWS).map(({ vehicle }) => vehicle.vehicle);
    more = keyed.length > (state.page + 1) * ROWS;
  }

  function show() {
    const had = rows;
    kept.ids = ids;
    const inside = body.contains(document.activeElement) ? document.activeElement : null;
    rows = new Map(ids.map((id) => [id, had.get(id) ?? row(id)]));
    const wanted = [...rows.values()].map((one) => one.element);
    if (wanted.length !== body.children.length || wanted.some((one, index) => one !== body.children[index])) {
      body.replaceChildren(...(wanted.length ? wanted : [nothing()]));
      if (inside?.isConnected) inside.focus({ preventScroll: true });
    }
    for (const id of ids) rows.get(id).update();
    const first = state.page * ROWS + 1;
    const total = store.complete && !store.truncated ? matching().length : null;
    write(where, ids.length ? `${number(first)}–${number(first + ids.length - 1)}${total === null ? "" : ` of ${number(total)}`}` : "");
    before.disabled = state.page === 0;
    next.disabled = !more;
    const isFiltered = state.search || state.freshness;
    let text = isFiltered && total !== null ? `${plural(total, "vehicle")} found` : "";
    if (!isServers() && store.truncated) text += `${text ? ". " : ""}Sorted are the first ${number(store.vehicles.size)} vehicles only`;
    write(told, text);
  }

  function nothing() {
    const text = state.search || state.freshness ? "No vehicle is like that." : "No vehicles yet. They appear by themselves once a connection tells of them.";
    return el("tr", null, el("td", { class: "empty", colspan: heads.length }, text));
  }

  function row(id) {
    const cells = Object.fromEntries(Object.entries(COLUMNS).map(([key, column]) => [key, el(key === "vehicle" ? "th" : "td", { scope: key === "vehicle" ? "row" : null, class: column.class })]));
    const link = el("a", { href: `#/vehicles/${encodeURIComponent(id)}`, click: () => { kept.opened = id; } }, id);
    cells.vehicle.append(link);
    let isNew = true;
    let freshness;
    return {
      element: el("tr", null, Object.values(cells)),
      link,
      update() {
        const vehicle = store.vehicles.get(id);
        if (!vehicle) return;
        if (vehicle.freshness !== freshness) {
          freshness = vehicle.freshness;
          cells.freshness.replaceChildren(badge(freshness));
          if (!isNew) mark(cells.freshness);
        }
        for (const [key, { text }] of Object.entries(COLUMNS)) {
          if (text && write(cells[key], text(vehicle)) && !isNew) mark(cells[key]);
        }
        isNew = false;
        this.tick();
      },
      tick() {
        const vehicle = store.vehicles.get(id);
        if (vehicle) write(cells.heard, vehicle.heard ? duration((store.now() - vehicle.heard) / 1000) : "never");
      },
    };
  }

  const element = el("section", { class: "card", "aria-labelledby": "vehicles-title" },
    el("div", { class: "table-head" },
      el("h2", { id: "vehicles-title" }, "Vehicles"),
      el("div", { class: "tools" },
        el("div", { class: "field" }, el("label", { for: "search" }, "Search"), search),
        el("div", { class: "field" }, el("label", { for: "freshness" }, "Status"), pick))),
    told,
    el("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Table of vehicles" },
      el("table", { class: "vehicles" }, el("caption", { class: "unseen" }, `Vehicles of workspace ${session.workspace}`), el("thead", null, el("tr", null, heads)), body)),
    el("nav", { class: "pager", "aria-label": "Pages of vehicles" }, before, where, next));
  showSort();

  return {
    element,
    state,
    filter,
    start: () => void ask(),
    refresh: ask,
    linkOf: (id) => {
      // Shown before it is asked for again, so that the focus has somewhere to go.
      if (store.vehicles.has(id)) {
        if (!isServers()) sortHere();
        else ids = [...(kept.ids ?? [])];
        show();
      }
      return rows.get(id)?.link ?? null;
    },
    changed(changed) {
      if (!isServers() && changed.size === 0) {
        sortHere();
        show();
      }
      for (const id of changed) rows.get(id)?.update();
    },
    tick() {
      for (const one of rows.values()) one.tick();
    },
  };
}
