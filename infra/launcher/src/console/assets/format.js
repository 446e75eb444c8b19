// How values, times and words are shown.

export const FRESHNESS = ["fresh", "stale", "offline", "never_seen"];

const WORDS = {
  fresh: "Fresh",
  stale: "Stale",
  offline: "Offline",
  never_seen: "Never seen",
  source_silent: "The vehicle is silent",
  pipeline_late: "Headrace is behind",
  provider_outage: "The provider is out",
};

const SIGNALS = {
  state_of_charge: "State of charge",
  odometer: "Odometer",
  speed: "Speed",
  position: "Position",
  power: "Power",
  energy: "Energy",
  battery_voltage: "Battery voltage",
  battery_current: "Battery current",
  range: "Range",
};

const UNITS = {
  state_of_charge: "%", odometer: "m", range: "m", speed: "km/h", power: "kW", energy: "kWh", battery_voltage: "V", battery_current: "A",
};

const DIGITS = { state_of_charge: 1, odometer: 1, speed: 0, power: 1, energy: 1, battery_voltage: 0, battery_current: 0, range: 0 };

/** A word of the API in words for people. */
export function word(name) {
  if (WORDS[name]) return WORDS[name];
  const spaced = String(name ?? "").replaceAll("_", " ");
  return spaced.charAt(0).toUpperCase() + spaced.slice(1);
}

/** A signal's name for people. */
export const signalName = (signal) => SIGNALS[signal] ?? word(signal);

const formats = new Map();

/** A number with so many digits behind the point. */
export function number(value, digits = 0) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (!formats.has(digits)) {
    formats.set(digits, new Intl.NumberFormat("en-GB", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }
  return formats.get(digits).format(value);
}

/** Whether a value is a position. */
export function isPosition(value) {
  return Number.isFinite(value?.latitude) && Number.isFinite(value?.longitude);
}

/** A signal's reading as it is read aloud: lengths in kilometres, the rest in its own unit. */
export function reading(signal, found) {
  const value = found?.value;
  if (value === null || value === undefined) return "–";
  if (isPosition(value)) {
    const { latitude, longitude } = value;
    return `${Math.abs(latitude).toFixed(4)}° ${latitude < 0 ? "S" : "N"}, ${Math.abs(longitude).toFixed(4)}° ${longitude < 0 ? "W" : "E"}`;
  }
  if (typeof value !== "number") return String(typeof value === "object" ? JSON.stringify(value) : value);
  const unit = found.unit ?? UNITS[signal] ?? "";
  if (unit === "m") return `${number(value / 1000, DIGITS[signal] ?? 1)} km`;
  return `${number(value, DIGITS[signal] ?? 1)} ${unit}`.trim();
}

/** Seconds as an age: the two largest units at most. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

/** A length of time that stands still: without a second unit that is nothing. */
export const span = (seconds) => duration(seconds).replace(/ 0+ (min|s|h)$/, "");

/** Bytes in binary units. */
export function bytes(count) {
  if (!Number.isFinite(count)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = count > 0 ? Math.min(units.length - 1, Math.floor(Math.log2(count) / 10)) : 0;
  const scaled = count / 2 ** (10 * power);
  return `${number(scaled, scaled < 10 && power > 0 && scaled % 1 ? 1 : 0)} ${units[power]}`;
}

const moments = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** A point in time in the reader's own zone. */
export function moment(text) {
  const at = Date.parse(text);
  return Number.isNaN(at) ? "–" : moments.format(at);
}

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;
