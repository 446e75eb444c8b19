// What happens, as it happens: the live stream read with `fetch`, because an EventSource cannot send the
// credential. It resumes behind the last event that it had, and backs off while it cannot.

import { retryAfter } from "./api.js";
import { EventStream } from "./sse.js";

/** The service sends something at least every 15 s. */
const SILENCE = 45_000;
const FIRST_WAIT = 1_000;
const LONGEST_WAIT = 30_000;
/** How soon to look again for a stream that is not there at all. */
const ABSENT_WAIT = 60_000;

/** How long to wait before the attempt of that number, and up to half as long again. */
function wait(attempt) {
  const base = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** Math.min(attempt, 10));
  return base * (1 + Math.random() / 2);
}

/** A live stream. `told` is called with: `event(cloudEvent)`, `state(name, seconds)`, `gap(isOther)` when something
 * may have been missed, with whether what comes is of another history than what came; `refused(status)`. */
export class Live {
  #url;
  #api;
  #told;
  #last = null;
  #attempt = 0;
  #isAbsent = false;
  /** Whether the log was found to be another than the one that was read. */
  #isOther = false;
  #stop = new AbortController();

  constructor(url, api, told) {
    this.#url = url;
    this.#api = api;
    this.#told = told;
  }

  start() {
    void this.#run();
  }

  stop() {
    this.#stop.abort();
  }

  async #run() {
    while (!this.#stop.signal.aborted) {
      const delay = await this.#connect();
      if (this.#stop.signal.aborted || delay === null) return;
      await this.#pause(delay);
    }
  }

  /** One connection from beginning to end; how long to wait before the next, or null for none. */
  async #connect() {
    if (!this.#isAbsent) this.#told.state("connecting");
    const silent = new AbortController();
    let alarm;
    const heard = () => {
      clearTimeout(alarm);
      alarm = setTimeout(() => silent.abort(), SILENCE);
    };
    heard();
    try {
      const headers = this.#api.headers({ accept: "text/event-stream" });
      if (this.#last !== null) headers["last-event-id"] = this.#last;
      const signal = AbortSignal.any([this.#stop.signal, silent.signal]);
      const response = await fetch(this.#url, { headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
      if (!response.ok || !response.headers.get("content-type")?.startsWith("text/event-stream")) {
        return this.#refused(response);
      }
      this.#isAbsent = false;
      this.#told.state("live");
      // Behind a known event nothing is missing; otherwise, what was before has to be read.
      if (this.#last === null) this.#gap();
      return await this.#read(response.body, heard);
    } catch {
      return this.#again();
    } finally {
      clearTimeout(alarm);
    }
  }

  async #read(body, heard) {
    const stream = new EventStream();
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return this.#again(stream.retry);
      heard();
      for (const event of stream.push(value)) {
        if (event.type === "end") {
          // Whoever says so need not hang up as well.
          reader.cancel().catch(() => {});
          return this.#ended(event.data, stream.retry);
        }
        if (event.id !== null) this.#last = event.id;
        this.#attempt = 0;
        if (event.data) this.#tell(event.data);
      }
    }
  }

  #tell(data) {
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
    if (event && typeof event === "object") this.#told.event(event);
  }

  /** The service says why it ends the stream. */
  #ended(data, retry) {
    if (/log-(truncated|restored)/.test(data)) this.#last = null;
    if (/log-restored/.test(data)) this.#isOther = true;
    return this.#again(retry);
  }

  #gap() {
    const isOther = this.#isOther;
    this.#isOther = false;
    this.#told.gap(isOther);
  }

  #refused(response) {
    void response.body?.cancel();
    const { status } = response;
    if (status === 401) {
      this.#told.refused(status);
      return null;
    }
    // Where it left off is not known there any more.
    if (this.#last !== null && [400, 409, 410].includes(status)) {
      this.#last = null;
      if (status !== 410) this.#isOther = true;
      return 0;
    }
    if ([429, 503].includes(status)) return this.#again((retryAfter(response) ?? 0) * 1000);
    if (status === 502 || status === 504) return this.#again();
    this.#isAbsent = true;
    this.#told.state("polling");
    if (this.#isOther) this.#gap();
    return ABSENT_WAIT;
  }

  #again(atLeast) {
    const delay = Math.max(wait(this.#attempt), atLeast ?? 0);
    this.#attempt += 1;
    if (!this.#stop.signal.aborted) this.#told.state("waiting", Math.ceil(delay / 1000));
    return delay;
  }

  #pause(delay) {
    return new Promise((resolve) => {
      const over = () => {
        clearTimeout(timer);
        removeEventListener("online", over);
        resolve();
      };
      const timer = setTimeout(over, delay);
      addEventListener("online", over);
      this.#stop.signal.addEventListener("abort", over, { once: true });
    });
  }
}
