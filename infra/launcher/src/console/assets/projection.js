// Where positions are drawn: a plain map in which a degree of longitude is as long as it is at the middle
// latitude. Pure.

const KM_PER_DEGREE = 111.32;
/** A fleet in one yard is not blown up further than this many degrees of latitude across. */
const SMALLEST = 0.01;
const MARGIN = 0.08;

/** The box around positions with some room, or the whole world without any. */
export function boundsOf(positions) {
  if (positions.length === 0) return { west: -180, east: 180, south: -70, north: 75 };
  let [west, east, south, north] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const { latitude, longitude } of positions) {
    west = Math.min(west, longitude);
    east = Math.max(east, longitude);
    south = Math.min(south, latitude);
    north = Math.max(north, latitude);
  }
  return { west, east, south, north };
}

/** A view of `width` by `height` pixels onto a middle, with so many pixels a degree of latitude. */
export class View {
  constructor(width, height, latitude, longitude, scale) {
    this.width = width;
    this.height = height;
    this.latitude = Math.min(Math.max(latitude, -85), 85);
    this.longitude = longitude;
    this.scale = scale;
    this.narrow = Math.max(0.05, Math.cos((this.latitude * Math.PI) / 180));
  }

  /** The view that shows all of `bounds`. */
  static around({ west, east, south, north }, width, height) {
    const latitude = (south + north) / 2;
    const narrow = Math.max(0.05, Math.cos((latitude * Math.PI) / 180));
    const tall = Math.max(north - south, SMALLEST) * (1 + 2 * MARGIN);
    const wide = Math.max((east - west) * narrow, SMALLEST) * (1 + 2 * MARGIN);
    return new View(width, height, latitude, (west + east) / 2, Math.min(height / tall, width / wide));
  }

  x(longitude) {
    return this.width / 2 + (longitude - this.longitude) * this.narrow * this.scale;
  }

  y(latitude) {
    return this.height / 2 - (latitude - this.latitude) * this.scale;
  }

  longitudeAt(x) {
    return this.longitude + (x - this.width / 2) / (this.narrow * this.scale);
  }

  latitudeAt(y) {
    return this.latitude - (y - this.height / 2) / this.scale;
  }

  /** `factor` times as large, with what is at `x`, `y` staying there. */
  zoomed(factor, x = this.width / 2, y = this.height / 2) {
    const scale = Math.min(Math.max(this.scale * factor, 1), 4_000_000);
    const [longitude, latitude] = [this.longitudeAt(x), this.latitudeAt(y)];
    const next = new View(this.width, this.height, this.latitude, this.longitude, scale);
    return next.moved(x - next.x(longitude), y - next.y(latitude));
  }

  /** With everything moved by so many pixels. */
  moved(dx, dy) {
    return new View(this.width, this.height, this.latitude + dy / this.scale, this.longitude - dx / (this.narrow * this.scale), this.scale);
  }

  sized(width, height) {
    return new View(width, height, this.latitude, this.longitude, this.scale);
  }

  /** A round length that is about `pixels` long, in km, and how long it is exactly. */
  bar(pixels) {
    const length = round((pixels / this.scale) * KM_PER_DEGREE);
    return { kilometres: length, pixels: (length / KM_PER_DEGREE) * this.scale };
  }

  /** The meridians and parallels to draw. */
  graticule() {
    const latitude = above(70 / this.scale);
    // Their labels stand beside one another.
    const longitude = above(80 / (this.scale * this.narrow));
    const lines = (step, low, high) => {
      const found = [];
      for (let index = Math.ceil(low / step); index * step <= high && found.length < 60; index += 1) found.push(index * step);
      return found;
    };
    return {
      steps: { latitude, longitude },
      longitudes: lines(longitude, this.longitudeAt(0), this.longitudeAt(this.width)),
      latitudes: lines(latitude, this.latitudeAt(this.height), this.latitudeAt(0)),
    };
  }
}

/** The largest of 1, 2 and 5 times a power of ten that is not above `value`. */
export function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const rest = value / power;
  return (rest >= 5 ? 5 : rest >= 2 ? 2 : 1) * power;
}

/** The smallest of 1, 2 and 5 times a power of ten that is not below `value`. */
export function above(value) {
  const below = round(value);
  if (below >= value) return below;
  return below * (Math.round(below / 10 ** Math.floor(Math.log10(below))) === 2 ? 2.5 : 2);
}
