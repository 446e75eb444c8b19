// The way from providers to here: what waits where, and what holds it up.

import { explain } from "./api.js";
import { card, el, table } from "./dom.js";
import { bytes, duration, moment, number, plural, word } from "./format.js";
import { repeat } from "./repeat.js";

const ASK = 3_000;
const LISTED = 100;

export function pipeline(app) {
  const { session } = app;
  const stopped = new AbortController();
  let rest;
  const get = (path, query) => session.api.get(path, query, stopped.signal);

  const whole = el("div", { class: "stack" });
  const figures = el("div", { class: "tiles" });
  const installation = part("Installation", () => (session.may("operate") ? get("/v1/pipeline") : null), (found) => {
    if (!found) {
      figures.replaceChildren();
      return [el("p", { class: "hint" }, "Queues, relays and subscribers belong to the whole installation: seeing them needs a key with the scope “operate”. Below is this workspace’s part.")];
    }
    figures.replaceChildren(...tilesOf(found));
    return sections(found);
  }, () => figures.replaceChildren());
  const parts = [
    part("Connections", () => get(`${session.base}/health/connections`, { limit: LISTED }), ({ items }) => [table("Connections", ["Connection", "Provider", "Status", "Since", "Why", { name: "Frames a minute", number: true }],
      items.map((item) => [item.connection, item.provider, state(item.status), moment(item.since), item.error ?? (item.reason ? word(item.reason) : "–"), number(item.frames_per_minute)]), "Nothing was heard of any connection.")]),
    part("Streams", () => get(`${session.base}/streams`, { limit: LISTED }), ({ items }) => [table("Streams and their owners", ["Connection", "Provider", "State", "Owner", { name: "Epoch", number: true }, { name: "Frames", number: true }, "Last frame", "Not read because", "Last error"],
      items.map((item) => [item.connection, item.provider, state(item.state), item.outgoing ? `${item.owner ?? "nobody"} (from ${item.outgoing})` : (item.owner ?? "nobody"), number(item.epoch), number(item.frames), item.last_frame_at ? moment(item.last_frame_at) : "–", item.paused ? word(item.paused) : "–", item.last_error ?? "–"]), "No connection streams.")]),
    part("Polls", () => get(`${session.base}/polls`, { limit: LISTED }), ({ items }) => [table("Polled connections", ["Connection", "Provider", "Feed", "State", "Last success", { name: "Behind", number: true }, { name: "Failures", number: true }, "Last error"],
      items.flatMap((item) => item.feeds.map((feed) => [item.connection, item.provider, feed.feed, state(feed.state), feed.last_success_at ? moment(feed.last_success_at) : "never", feed.lag_seconds === null ? "–" : duration(feed.lag_seconds), number(feed.consecutive_failures), feed.last_error ?? "–"])), "No connection is polled.")]),
    part("Parked frames", () => get(`${session.base}/parked`, { limit: LISTED }), ({ items, next }) => [
      next ? el("p", { class: "hint" }, `The first ${LISTED} are shown; “headrace parked list” has them all.`) : null,
      table("Parked frames", ["Parked", "Provider", "Reason", "Detail", { name: "Size", number: true }, { name: "Copies", number: true }],
        items.map((item) => [moment(item.parked_at), item.provider ?? "–", word(item.reason), item.detail, bytes(item.size), number(1 + item.repeats)]), "Nothing is parked: everything that came was understood.")]),
  ];
  whole.append(installation.element, ...parts.map((one) => one.element));

  async function ask() {
    const errors = await Promise.all([installation, ...parts].map((one) => one.ask(app)));
    return errors.find(Boolean);
  }

  return {
    title: "Pipeline",
    element: el("div", { class: "pipeline" },
      el("div", { class: "page-head" }, el("h1", { tabindex: "-1" }, "Pipeline"), el("p", { class: "lead" }, `From the providers to what you see, for workspace ${session.workspace}`)),
      figures, whole),
    start() {
      rest = repeat(ask, ASK);
    },
    stop() {
      stopped.abort();
      rest();
    },
  };
}

/** A part that asks for itself and fails by itself; `cleared` is called where nothing is shown any more. */
function part(title, get, show, cleared) {
  const content = el("div", { class: "stack" }, el("p", { class: "hint" }, "Loading …"));
  let shown = null;
  return {
    element: card(title, null, content),
    async ask(app) {
      try {
        const found = await get();
        if (found) app.worked();
        const text = JSON.stringify(found);
        if (text === shown) return null;
        shown = text;
        const open = [...content.querySelectorAll(".scroll")].map((one) => one.scrollLeft);
        content.replaceChildren(...show(found).filter(Boolean));
        content.querySelectorAll(".scroll").forEach((one, index) => { one.scrollLeft = open[index] ?? 0; });
        return null;
      } catch (error) {
        if (error.name === "AbortError") return null;
        shown = null;
        if ([0, 401, 429].includes(error.status)) app.failed(error);
        else {
          content.replaceChildren(el("p", { class: "hint" }, explain(error)));
          cleared?.();
        }
        return error;
      }
    },
  };
}

const GOOD = new Set(["subscribed", "connected", "ok"]);
const WAITING = new Set(["connecting", "assigned", "behind", "limited", "paused"]);

/** A state with a colour and a sign beside its word. */
function state(name) {
  const kind = GOOD.has(name) ? "good" : WAITING.has(name) ? "waiting" : "bad";
  const sign = { good: "✓", waiting: "…", bad: "!" }[kind];
  return el("span", { class: `state state-${kind}` }, el("span", { class: "sign", "aria-hidden": "true" }, sign), word(name));
}

function tilesOf({ ingress, relay, subscribers, dead_letters: letters, dead_events: events, parked }) {
  const lag = relay.reduce((sum, shard) => sum + shard.lag_events, 0);
  const slowest = subscribers.reduce((most, one) => (one.lag_events > (most?.lag_events ?? -1) ? one : most), null);
  const frames = parked.reduce((sum, one) => sum + one.frames, 0);
  const tile = (name, value, note, isBad) =>
    el("div", { class: isBad ? "tile tile-bad" : "tile" }, el("span", { class: "tile-name" }, name), el("span", { class: "figure" }, value), el("span", { class: "share" }, note));
  return [
    tile("Ingress queues", ingress.messages === null ? "?" : number(ingress.messages), ingress.messages === null ? "the broker does not say" : "messages wait"),
    tile("Relay", number(lag), "events wait"),
    tile("Furthest behind", number(slowest?.lag_events ?? 0), slowest ? `events: ${slowest.name}` : "nobody reads the log"),
    tile("Parked", number(frames), "frames", frames > 0),
    tile("Dead", number(letters + events), `${plural(letters, "letter")}, ${plural(events, "event")}`, letters + events > 0),
  ];
}

function sections({ ingress, relay, subscribers, publishers, parked, dead_letters: letters, dead_events: events, management_url: management }) {
  const most = Math.max(1, ...ingress.partitions.map((one) => one.messages ?? 0));
  const depth = (one) => {
    if (one.messages === null) return "unknown";
    const fill = el("span", { class: "meter-fill" });
    fill.style.width = `${(one.messages / most) * 100}%`;
    return el("span", { class: "metered" }, el("span", { class: "meter", "aria-hidden": "true" }, fill), el("span", { class: "metered-number" }, number(one.messages)));
  };
  const held = publishers.flatMap((one) => (one.backpressure ?? []).map((reason) => `${plural(reason.streams, "stream")} (${word(reason.reason).toLowerCase()})`));
  const group = (title, ...content) => el("section", { class: "part" }, el("h3", null, title), content);
  return [
    group("Ingress queues",
      el("p", { class: held.length ? "hint hint-bad" : "hint" }, held.length ? `Backpressure: publishers do not read ${held.join(", ")}.` : "No backpressure: publishers read all their streams."),
      table("Ingress queues", ["Queue", { name: "Messages waiting", number: true }, { name: "Takes at most", number: true }, { name: "Consumers", number: true }],
        ingress.partitions.map((one) => [one.queue, depth(one), bytes(one.max_bytes), one.consumers === null ? "unknown" : number(one.consumers)])),
      management && /^https?:\/\//.test(management) ? el("p", null, el("a", { href: management, rel: "noreferrer noopener", target: "_blank" }, "RabbitMQ’s management pages"), " (a new tab)") : null),
    group("Publishers", table("Publishers", ["Publisher", { name: "Streams", number: true }, "Not read", "Last heard"],
      publishers.map((one) => [one.draining ? `${one.instance} (stopping)` : one.instance, number(one.streams), (one.backpressure ?? []).map((reason) => `${number(reason.streams)}: ${word(reason.reason).toLowerCase()}`).join(", ") || "–", moment(one.seen_at)]), "No publisher is there.")),
    group("Relay", table("Relay, by shard of the event log", [{ name: "Shard" }, { name: "Events waiting", number: true }, { name: "For", number: true }, { name: "Relayed up to", number: true }, { name: "Of", number: true }],
      relay.map((one) => [String(one.shard), number(one.lag_events), one.waiting_seconds === null ? "–" : duration(one.waiting_seconds), number(one.relayed), number(one.head)]))),
    group("Subscribers of the event log", table("Subscribers", ["Subscriber", { name: "Events behind", number: true }, { name: "By", number: true }, "Last heard"],
      subscribers.map((one) => [one.name, number(one.lag_events), one.lag_seconds === null ? "–" : duration(one.lag_seconds), moment(one.seen_at)]), "Nobody reads the log.")),
    group("Set aside", table("Set aside", ["What", { name: "How many", number: true }], [
      ...parked.map((one) => [`Parked: ${word(one.reason).toLowerCase()}`, number(one.frames)]),
      ["Dead letters", number(letters)],
      ["Dead events", number(events)],
    ])),
  ];
}
