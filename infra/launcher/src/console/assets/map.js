// Where the vehicles are: their positions on a grid of degrees, with a scale, without anybody else's map.

import { el, write } from "./dom.js";
import { FRESHNESS, number, plural, reading, word } from "./format.js";
import { SHAPES, shape } from "./marks.js";
import { boundsOf, View } from "./projection.js";
import { positionOf, valueOf } from "./store.js";

/** How soon it is drawn again where vehicles have moved. */
const REDRAW = 500;
const SIZE = 12;
/** How near to a vehicle, in pixels, one has to point. */
const NEAR = 14;
const STEP = 1.6;
/** What matters most is drawn last. */
const ORDER = ["never_seen", "fresh", "stale", "offline"];

export function map(store, app) {
  const canvas = el("canvas", { class: "map", role: "img" });
  const tip = el("div", { class: "map-tip", hidden: true, "aria-hidden": "true" });
  const hint = el("p", { class: "hint" });
  const legend = el("ul", { class: "legend" }, FRESHNESS.map((name) => el("li", null, shape(name), word(name))));
  const button = (label, text, click) => el("button", { type: "button", "aria-label": label, title: label, click }, text);
  const controls = el("div", { class: "map-controls", role: "group", "aria-label": "Map" },
    button("Zoom in", "+", () => zoom(STEP)), button("Zoom out", "−", () => zoom(1 / STEP)), button("Show all vehicles", "⤢", () => { view = null; draw(); }));
  const frame = el("div", { class: "map-frame" }, canvas, tip, controls);
  const paths = Object.fromEntries(Object.entries(SHAPES).map(([name, outline]) => [name, new Path2D(outline)]));

  /** None while all vehicles are shown. */
  let view = null;
  let shown = null;
  let points = [];
  let timer = null;
  let held = null;
  const watch = new ResizeObserver(() => draw());

  function zoom(factor, x, y) {
    view = (view ?? shown)?.zoomed(factor, x, y) ?? null;
    draw();
  }

  function place() {
    points = [];
    for (const vehicle of store.vehicles.values()) {
      const position = positionOf(vehicle);
      if (position) points.push({ vehicle, position });
    }
    const rank = ({ vehicle }) => ORDER.indexOf(vehicle.freshness ?? "never_seen");
    points.sort((one, other) => rank(one) - rank(other));
  }

  function draw() {
    clearTimeout(timer);
    timer = null;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    place();
    shown = view?.sized(width, height) ?? View.around(boundsOf(points.map((point) => point.position)), width, height);
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    grid(pen, shown, colour);
    dots(pen, colour);
    bar(pen, shown, colour);
    describe();
  }

  function dots(pen, colour) {
    for (const point of points) {
      point.x = shown.x(point.position.longitude);
      point.y = shown.y(point.position.latitude);
      if (point.x < -SIZE || point.y < -SIZE || point.x > shown.width + SIZE || point.y > shown.height + SIZE) continue;
      const name = SHAPES[point.vehicle.freshness] ? point.vehicle.freshness : "never_seen";
      pen.save();
      pen.translate(point.x - SIZE / 2, point.y - SIZE / 2);
      pen.lineWidth = name === "never_seen" ? 2 : 1.5;
      pen.strokeStyle = colour(name === "never_seen" ? "never_seen" : "surface");
      pen.fillStyle = colour(name === "never_seen" ? "surface" : name);
      pen.fill(paths[name]);
      pen.stroke(paths[name]);
      pen.restore();
    }
  }

  function describe() {
    const without = store.vehicles.size - points.length;
    const text = points.length
      ? `${plural(points.length, "vehicle")} with a position${without ? `, ${number(without)} without` : ""}.`
      : "No vehicle has told where it is yet.";
    canvas.setAttribute("aria-label", `Positions on a map. ${text} The table below has the same vehicles.`);
    write(hint, `${text}${points.length ? " Drag to move; choose a vehicle to open it." : ""}`);
  }

  function at(event) {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  function nearest([x, y]) {
    let found = null;
    let best = NEAR;
    for (const point of points) {
      const distance = Math.hypot(point.x - x, point.y - y);
      if (distance <= best) [found, best] = [point, distance];
    }
    return found;
  }

  function point(event) {
    const [x, y] = at(event);
    if (held) {
      held.far ||= Math.hypot(x - held.x, y - held.y) > 4;
      if (held.far) {
        view = held.view.moved(x - held.x, y - held.y);
        tip.hidden = true;
        draw();
      }
      return;
    }
    const found = nearest([x, y]);
    canvas.classList.toggle("over", Boolean(found));
    tip.hidden = !found;
    if (!found) return;
    const { vehicle } = found;
    const charge = valueOf(vehicle, "state_of_charge");
    tip.replaceChildren(el("strong", null, vehicle.vehicle), el("span", null, `${word(vehicle.freshness ?? "unknown")}${charge === null ? "" : ` · ${reading("state_of_charge", vehicle.signals.state_of_charge)}`}`));
    tip.style.left = `${Math.min(found.x + 10, shown.width - tip.offsetWidth - 4)}px`;
    tip.style.top = `${Math.max(4, found.y - tip.offsetHeight - 8)}px`;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || !shown) return;
    const [x, y] = at(event);
    held = { x, y, view: view ?? shown, far: false };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", point);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("pointercancel", () => { held = null; });
  canvas.addEventListener("pointerup", (event) => {
    const dragged = held?.far;
    held = null;
    const found = dragged ? null : nearest(at(event));
    if (!found) return;
    app.kept.opened = found.vehicle.vehicle;
    location.hash = `#/vehicles/${encodeURIComponent(found.vehicle.vehicle)}`;
  });
  canvas.addEventListener("wheel", (event) => {
    // Scrolling the page stays scrolling the page.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, ...at(event));
  }, { passive: false });

  return {
    element: el("div", null, frame, legend, hint),
    start() {
      watch.observe(canvas);
      addEventListener("headrace:theme", draw);
      draw();
    },
    changed() {
      timer ??= setTimeout(draw, REDRAW);
    },
    stop() {
      watch.disconnect();
      removeEventListener("headrace:theme", draw);
      clearTimeout(timer);
    },
  };
}

/** Degrees with as many digits as the step between lines needs. */
function degrees(value, step, [positive, negative]) {
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  return `${Math.abs(value).toFixed(digits)}°${value === 0 ? "" : value > 0 ? positive : negative}`;
}

function grid(pen, view, colour) {
  pen.fillStyle = colour("map");
  pen.fillRect(0, 0, view.width, view.height);
  const { steps, longitudes, latitudes } = view.graticule();
  pen.strokeStyle = colour("grid");
  pen.fillStyle = colour("muted");
  pen.lineWidth = 1;
  pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  const line = (...ends) => {
    pen.beginPath();
    pen.moveTo(ends[0], ends[1]);
    pen.lineTo(ends[2], ends[3]);
    pen.stroke();
  };
  for (const longitude of longitudes) {
    const x = Math.round(view.x(longitude)) + 0.5;
    line(x, 0, x, view.height);
    pen.fillText(degrees(longitude, steps.longitude, "EW"), x + 4, view.height - 6);
  }
  for (const latitude of latitudes) {
    const y = Math.round(view.y(latitude)) + 0.5;
    line(0, y, view.width, y);
    // Not below the scale.
    if (y < view.height - 40) pen.fillText(degrees(latitude, steps.latitude, "NS"), 6, y - 4);
  }
}

function bar(pen, view, colour) {
  const { kilometres, pixels } = view.bar(Math.min(120, view.width / 4));
  const text = kilometres >= 1 ? `${kilometres} km` : `${Math.round(kilometres * 1000)} m`;
  const [right, y] = [view.width - 12, view.height - 26];
  pen.strokeStyle = colour("text");
  pen.fillStyle = colour("text");
  pen.lineWidth = 2;
  pen.beginPath();
  pen.moveTo(right - pixels, y - 4);
  pen.lineTo(right - pixels, y);
  pen.lineTo(right, y);
  pen.lineTo(right, y - 4);
  pen.stroke();
  pen.textAlign = "right";
  pen.fillText(text, right, y - 8);
  pen.textAlign = "start";
}
