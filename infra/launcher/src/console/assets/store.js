// The vehicles that are known here: read from the API in pages, kept up to date by events.

import { isPosition } from "./format.js";

const PAGE = 1000;
/** More vehicles are not read, nor kept because an event tells of them; the table still finds them at the server. */
const MOST = 20_000;
const SPARSE = [
  "vehicle", "version", "age_seconds", "freshness", "last_received_at",
  "signals.state_of_charge", "signals.position", "signals.speed", "signals.power", "signals.odometer",
].join(",");
/** How long changes are gathered before those who show them are told. */
const GATHER = 250;

/** The vehicles of one workspace. Listeners are called with the ids that changed. */
export class Store {
  vehicles = new Map();
  /** Whether all of them, or as many as are kept, have been read. */
  complete = false;
  truncated = false;
  /** Why the last reading of all of them failed; null once one did not. */
  failure = null;
  /** How often everything was forgotten: what was asked for before that is not taken in. */
  history = 0;
  #api;
  #base;
  #sparse = SPARSE;
  #offset = 0;
  #listeners = new Set();
  #changed = new Set();
  #timer = null;
  #loading = null;
  #again = false;

  constructor(api, base) {
    this.#api = api;
    this.#base = base;
  }

  /** The time at the server, as far as its answers tell. */
  now() {
    return Date.now() + this.#offset;
  }

  listen(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Reads all vehicles; asked while that goes on, it is done once more, since what was read may be of before. */
  load() {
    this.#again = this.#loading !== null;
    this.#loading ??= this.#readAll().finally(() => {
      this.#loading = null;
    });
    return this.#loading;
  }

  /** Whether all vehicles are being read. */
  get isLoading() {
    return this.#loading !== null;
  }

  /** Forgets everything, where what is known is of a history that is no more. */
  forget() {
    const ids = [...this.vehicles.keys()];
    this.history += 1;
    this.vehicles.clear();
    this.complete = false;
    this.truncated = false;
    this.#notify(ids);
  }

  async #readAll() {
    try {
      do {
        this.#again = false;
        await this.#readOnce();
      } while (this.#again);
      this.failure = null;
    } catch (error) {
      this.failure = error;
      throw error;
    }
  }

  async #readOnce() {
    let after = null;
    const seen = new Set();
    do {
      const page = await this.#page({ limit: PAGE, after, fields: this.#sparse });
      for (const item of page.items) seen.add(item.vehicle);
      after = page.next;
    } while (after && seen.size < MOST);
    this.truncated = Boolean(after);
    this.complete = true;
    this.#notify([]);
  }

  async #page(query) {
    try {
      return await this.list(query);
    } catch (error) {
      if (error.status !== 400 || !query.fields) throw error;
      // An older server knows fewer fields: then all of them.
      this.#sparse = null;
      return this.list({ ...query, fields: null });
    }
  }

  /** One page of vehicles as the server has them. */
  async list(query, signal) {
    const { history } = this;
    const page = await this.#api.get(`${this.#base}/vehicles`, query, signal);
    if (history !== this.history) return this.list(query, signal);
    this.merge(page.items);
    return page;
  }

  /** Takes vehicles in as they were answered, whole or in part. */
  merge(items) {
    for (const item of items) {
      const known = this.vehicles.get(item.vehicle);
      const heard = this.#heard(item);
      const older = known && item.version < known.version;
      this.#set({
        vehicle: item.vehicle,
        version: Math.max(item.version ?? 0, known?.version ?? 0),
        freshness: item.freshness ?? known?.freshness ?? null,
        heard: later(known?.heard, heard),
        signals: older ? known.signals : { ...known?.signals, ...item.signals },
      });
    }
  }

  /** Takes an event in; whether it was about vehicles. */
  apply(event) {
    const data = event.data ?? {};
    switch (event.type) {
      case "vehicle.registered":
        if (!this.vehicles.has(data.vehicle)) {
          this.#add({ vehicle: data.vehicle, version: 0, freshness: "never_seen", heard: null, signals: {} });
        }
        return true;
      case "vehicle.snapshot.changed":
        this.#snapshot(data);
        return true;
      case "vehicles.seen":
        for (const seen of data.vehicles ?? []) this.#seen(seen);
        return true;
      case "vehicle.health.changed":
        this.#health(data);
        return true;
      default:
        return false;
    }
  }

  #snapshot(data) {
    const known = this.vehicles.get(data.vehicle);
    if (known && data.version <= known.version) return;
    this.#add({
      vehicle: data.vehicle,
      version: data.version,
      freshness: known?.freshness ?? null,
      heard: later(known?.heard, instant(data.last_received_at)),
      signals: data.signals ?? {},
    });
  }

  #seen(seen) {
    const known = this.vehicles.get(seen.vehicle);
    if (!known) return;
    const signals = { ...known.signals };
    for (const [name, times] of Object.entries(seen.signals ?? {})) {
      if (signals[name] && times.received_at >= signals[name].received_at) signals[name] = { ...signals[name], ...times };
    }
    this.#set({ ...known, signals, heard: later(known.heard, instant(seen.last_received_at)) });
  }

  #health(data) {
    const known = this.vehicles.get(data.vehicle);
    this.#add({
      vehicle: data.vehicle,
      version: known?.version ?? 0,
      freshness: data.freshness,
      heard: later(known?.heard, instant(data.last_received_at)),
      signals: known?.signals ?? {},
    });
  }

  /** When a vehicle was last heard from, by the server's clock, which its answers tell. */
  #heard(item) {
    const at = instant(item.last_received_at);
    const age = item.age_seconds;
    if (typeof age !== "number") return at;
    if (at === null) return this.now() - age * 1000;
    // An age of nothing may stand for a time that is ahead.
    if (age > 0) this.#offset = at + age * 1000 - Date.now();
    return at;
  }

  /** Takes in what an event tells, unless that is one vehicle too many. What was asked for is always taken in,
   * since it is about to be shown. */
  #add(vehicle) {
    if (this.vehicles.size < MOST || this.vehicles.has(vehicle.vehicle)) this.#set(vehicle);
  }

  #set(vehicle) {
    this.vehicles.set(vehicle.vehicle, vehicle);
    this.#notify([vehicle.vehicle]);
  }

  #notify(ids) {
    for (const id of ids) this.#changed.add(id);
    this.#timer ??= setTimeout(() => {
      const changed = this.#changed;
      this.#timer = null;
      this.#changed = new Set();
      for (const listener of this.#listeners) listener(changed);
    }, GATHER);
  }
}

function instant(text) {
  const at = Date.parse(text ?? "");
  return Number.isNaN(at) ? null : at;
}

function later(one, other) {
  if (one === null || one === undefined) return other ?? null;
  if (other === null || other === undefined) return one;
  return Math.max(one, other);
}

/** The vehicle's position, if it has one. */
export function positionOf(vehicle) {
  const value = vehicle.signals.position?.value;
  return isPosition(value) ? value : null;
}

/** The number that a signal of the vehicle has, or null. */
export function valueOf(vehicle, signal) {
  const value = vehicle.signals[signal]?.value;
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}
