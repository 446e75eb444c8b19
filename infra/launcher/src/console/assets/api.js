// Questions to the API, with the credential in a header and errors in words.

/** What the API refused or could not be asked. */
export class ApiError extends Error {
  constructor(status, name, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.name = name;
    this.retryAfter = retryAfter;
  }
}

/** Seconds to wait, from a `Retry-After` of seconds. */
export function retryAfter(response) {
  const seconds = Number.parseFloat(response.headers.get("retry-after") ?? "");
  return Number.isFinite(seconds) ? Math.min(Math.max(seconds, 1), 300) : null;
}

/** The error that an answer stands for. */
export async function refusal(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // Something in between answered in its own words.
  }
  const name = String(problem.type ?? "").split(/[:/]/).pop() || `http-${response.status}`;
  const detail = problem.detail ?? problem.title ?? `the answer was ${response.status}`;
  return new ApiError(response.status, name, String(detail), retryAfter(response));
}

/** Why something could not be shown, for people. */
export function explain(error) {
  switch (error.status) {
    case 0:
      return "Headrace cannot be reached. The last state that is known is shown; it is tried again.";
    case 401:
      return "The key is not accepted any more: sign in again.";
    case 403:
      return `This key may not see that: ${error.message}.`;
    case 404:
      return `There is no such thing: ${error.message}.`;
    case 429:
      return `Too many requests with this key. It is tried again${error.retryAfter ? ` in ${error.retryAfter} s` : " soon"}.`;
    case 502:
    case 503:
    case 504:
      return `A part of Headrace is away: ${error.message}. It is tried again.`;
    default:
      return `That did not work: ${error.message}.`;
  }
}

/** The API for one key. */
export class Api {
  #key;

  constructor(key) {
    this.#key = key;
  }

  headers(more) {
    return { authorization: `Bearer ${this.#key}`, ...more };
  }

  /** The answer to `GET path` with `query`, whose empty parts are left out. */
  async get(path, query, signal) {
    const asked = new URLSearchParams(Object.entries(query ?? {}).filter(([, value]) => value !== null && value !== undefined && value !== ""));
    const url = asked.size ? `${path}?${asked}` : path;
    let response;
    try {
      response = await fetch(url, { headers: this.headers({ accept: "application/json" }), cache: "no-store", credentials: "omit", redirect: "error", signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "unreachable", "no answer", null);
    }
    if (!response.ok) throw await refusal(response);
    try {
      return await response.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "unreachable", "the answer broke off", null);
    }
  }
}
