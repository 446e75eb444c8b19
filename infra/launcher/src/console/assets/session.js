// Who is signed in: the key lives in this tab's session storage and nowhere else.

import { Api } from "./api.js";

const KEY = "headrace.key";
const WORKSPACE = "headrace.workspace";

const storage = {
  get(name) {
    try {
      return sessionStorage.getItem(name);
    } catch {
      return null;
    }
  },
  set(name, value) {
    try {
      if (value === null) sessionStorage.removeItem(name);
      else sessionStorage.setItem(name, value);
    } catch {
      // Then it is only known until the page is left.
    }
  },
};

/** Takes a key from the address (`#key=…`), once, and removes it from the address and the history's entry. */
export function takeFromAddress() {
  if (!location.hash.startsWith("#key=")) return;
  const given = new URLSearchParams(location.hash.slice(1));
  history.replaceState(null, "", `${location.pathname}#/`);
  if (given.get("key")) {
    storage.set(KEY, given.get("key"));
    storage.set(WORKSPACE, given.get("workspace"));
  }
}

/** Whether a text can be sent as a key at all. */
export const canBeKey = (text) => /^[\x21-\x7e]+$/.test(text);

/** The key that is kept, or null. */
export const keptKey = () => storage.get(KEY);

/** A signed-in principal. */
export class Session {
  constructor(key, me) {
    this.api = new Api(key);
    this.key = key;
    this.principal = me?.principal ?? null;
    /** The workspaces that it reaches; null for any. */
    this.workspaces = Array.isArray(me?.workspaces) ? [...me.workspaces].sort() : null;
    /** What it may do; null where that is not told. */
    this.scopes = Array.isArray(me?.scopes) ? me.scopes : null;
    this.workspace = this.#firstWorkspace();
  }

  #firstWorkspace() {
    const kept = storage.get(WORKSPACE);
    if (this.workspaces === null) return kept;
    return this.workspaces.includes(kept) ? kept : (this.workspaces[0] ?? null);
  }

  /** Whether it has the scope, as far as that is told. */
  may(scope) {
    return this.scopes === null || this.scopes.includes(scope);
  }

  /** Where the workspace's part of the API is. */
  get base() {
    return `/v1/workspaces/${encodeURIComponent(this.workspace)}`;
  }

  use(workspace) {
    this.workspace = workspace;
    storage.set(WORKSPACE, workspace);
  }

  keep() {
    storage.set(KEY, this.key);
    storage.set(WORKSPACE, this.workspace);
  }
}

/** Asks who the key belongs to. */
export async function open(key) {
  const api = new Api(key);
  try {
    return new Session(key, await api.get("/v1/me"));
  } catch (error) {
    // A gateway that has no such route cannot say; then the workspace is asked for.
    if (error.status === 404) return new Session(key, null);
    throw error;
  }
}

/** Forgets the key. */
export function forget() {
  storage.set(KEY, null);
  storage.set(WORKSPACE, null);
}
