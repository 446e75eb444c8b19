// The text of an event stream, as the HTML standard reads it, in pieces of any size.

/** Events of a stream; `push` a piece of text, take what is complete. */
export class EventStream {
  #rest = "";
  #event = { id: null, type: "", data: [] };
  #hadReturn = false;
  /** Milliseconds to wait before the next connection, if the stream has said so. */
  retry = null;

  push(text) {
    const events = [];
    let piece = text;
    // A line end may be cut in two.
    if (this.#hadReturn && piece.startsWith("\n")) piece = piece.slice(1);
    if (piece) this.#hadReturn = piece.endsWith("\r");
    const lines = (this.#rest + piece).split(/\r\n|\n|\r/);
    this.#rest = lines.pop();
    for (const line of lines) {
      const event = this.#line(line);
      if (event) events.push(event);
    }
    return events;
  }

  #line(line) {
    if (line === "") return this.#end();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "data") this.#event.data.push(value);
    else if (name === "event") this.#event.type = value;
    else if (name === "id" && !value.includes("\0")) this.#event.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
    return null;
  }

  #end() {
    const { id, type, data } = this.#event;
    this.#event = { id: null, type: "", data: [] };
    if (data.length === 0 && id === null) return null;
    return { id, type: type || "message", data: data.join("\n") };
  }
}
