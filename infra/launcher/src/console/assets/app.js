// The console's frame: who is signed in, which page is shown, how fresh what is shown is.

import { explain } from "./api.js";
import { el, write } from "./dom.js";
import { fleet } from "./fleet.js";
import { Live } from "./live.js";
import { pipeline } from "./pipeline.js";
import { canBeKey, forget, keptKey, open, takeFromAddress } from "./session.js";
import { NO_KEY, chooseWorkspace, signIn } from "./signin.js";
import { Store } from "./store.js";
import { vehicle } from "./vehicle.js";

const parts = Object.fromEntries(
  ["main", "nav", "notice", "link-state", "workspace", "sign-out", "skip"].map((id) => [id, document.getElementById(id)]));

const LINK = {
  connecting: "Connecting",
  live: "Live",
  waiting: "Reconnecting",
  polling: "Every 5 s",
  offline: "Offline",
};

/** What pages share. */
const app = {
  session: null,
  store: null,
  live: null,
  /** What the fleet's page remembers while another page is shown. */
  kept: {},
  link: "connecting",
  failed,
  worked,
};

/** How long to wait for the live stream before the vehicles are read all the same. */
const FIRST_LOAD = 1_500;
/** How soon to ask again who the key belongs to, while that cannot be asked. */
const RESUME = 3_000;

let page = null;
let notice = null;
let first = null;
let retry;

/** Tells that something could not be shown; signs out where the key is the reason. */
function failed(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) {
    signOut(explain(error));
    return;
  }
  if (error.status === undefined) console.error(error);
  notice = error.status ?? -1;
  parts.notice.hidden = false;
  write(parts.notice, explain(error));
  if (error.status === 0) showLink("offline");
}

/** Takes back what was told, once it works again. */
function worked() {
  if (notice === null) return;
  notice = null;
  parts.notice.hidden = true;
  write(parts.notice, "");
  showLink(app.link);
}

function showLink(state, seconds) {
  if (state !== "offline") app.link = state;
  const shown = notice === 0 ? "offline" : state;
  parts["link-state"].dataset.state = shown;
  const dot = el("span", { class: "dot", "aria-hidden": "true" });
  parts["link-state"].replaceChildren(dot, el("span", null, LINK[shown]));
  parts["link-state"].title = shown === "waiting" && seconds ? `The live stream is tried again in ${seconds} s` : "";
}

function signOut(reason) {
  close();
  forget();
  app.session = null;
  app.kept = {};
  history.replaceState(null, "", `${location.pathname}#/`);
  route(reason);
}

/** Ends what belongs to the workspace that was shown. */
function close() {
  page?.stop?.();
  page = null;
  clearTimeout(first);
  first = null;
  app.live?.stop();
  app.live = null;
  app.store = null;
}

/** Begins with the workspace that is chosen. */
function begin() {
  close();
  const { session } = app;
  const store = new Store(session.api, session.base);
  app.store = store;
  app.kept = {};
  const reload = () => {
    clearTimeout(first);
    first = null;
    store.load().catch(failed);
  };
  // What is read behind the stream's beginning misses nothing; but nobody waits for a stream for long.
  first = setTimeout(reload, FIRST_LOAD);
  app.live = new Live(`${session.base}/live`, session.api, {
    event: (event) => store.apply(event),
    state(name, seconds) {
      showLink(name, seconds);
      if (first !== null && ["waiting", "polling"].includes(name)) reload();
    },
    gap(isOther) {
      // Versions of another history say nothing about which of two states is the newer.
      if (isOther) store.forget();
      reload();
    },
    refused: () => signOut("The key is not accepted any more: sign in again."),
  });
  app.live.start();
}

function show(next) {
  page?.stop?.();
  page = next;
  document.title = `${next.title} – Headrace`;
  parts.main.replaceChildren(next.element);
  next.start?.();
  (next.focus ?? next.element.querySelector("h1"))?.focus({ preventScroll: Boolean(next.focus) });
  if (!next.focus) scrollTo(0, 0);
}

function frame() {
  const { session } = app;
  const inside = Boolean(session?.workspace);
  parts.nav.hidden = !inside;
  parts["link-state"].hidden = !inside;
  parts["sign-out"].hidden = !session;
  parts.workspace.hidden = !inside;
  if (!inside) return;
  const label = el("label", { class: "unseen", for: "workspace-pick" }, "Workspace");
  if (session.workspaces) {
    const options = session.workspaces.map((name) => el("option", { value: name, selected: name === session.workspace }, name));
    const pick = el("select", { id: "workspace-pick", change: (event) => {
      session.use(event.target.value);
      enter();
    } }, options);
    parts.workspace.replaceChildren(label, pick);
  } else {
    parts.workspace.replaceChildren(el("button", { type: "button", class: "quiet", "aria-label": `Workspace ${session.workspace}: change`, click: () => {
      session.use(null);
      close();
      route();
    } }, session.workspace));
  }
}

/** Shows the fleet of the workspace that is chosen. */
function enter() {
  app.session.keep();
  begin();
  if (location.hash.startsWith("#/vehicles/")) history.replaceState(null, "", "#/");
  route();
}

function route(reason) {
  frame();
  const { session } = app;
  if (!session) {
    show(signIn((opened) => {
      app.session = opened;
      opened.keep();
      if (opened.workspace) begin();
      route();
    }, reason));
    return;
  }
  if (session.workspaces?.length === 0) {
    show({ title: "No workspace", element: el("section", { class: "card" }, el("h1", { tabindex: "-1" }, "No workspace"), el("p", null, "This key reaches no workspace. Ask whoever made it.")) });
    return;
  }
  if (!session.workspace) {
    show(chooseWorkspace(session, enter));
    return;
  }
  const [, first, second] = location.hash.match(/^#\/([^/]*)(?:\/(.*))?$/) ?? [];
  const current = first === "pipeline" ? "#/pipeline" : "#/";
  for (const link of parts.nav.querySelectorAll("a")) {
    if (link.getAttribute("href") === current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (first === "pipeline") show(pipeline(app));
  else if (first === "vehicles" && second) show(vehicle(app, decoded(second)));
  else show(fleet(app));
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

parts.skip.addEventListener("click", (event) => {
  event.preventDefault();
  parts.main.focus();
});
parts["sign-out"].addEventListener("click", () => signOut());
addEventListener("hashchange", () => {
  const before = location.hash;
  takeFromAddress();
  if (location.hash !== before) void resume();
  else route();
});
addEventListener("online", () => app.store?.load().then(worked, failed));
addEventListener("offline", () => app.live && failed({ status: 0 }));
setInterval(() => page?.tick?.(), 1000);

/** Says why nothing can be shown yet, and tries again. */
function wait(reason) {
  if (page?.waitsFor !== reason) {
    const element = el("section", { class: "card" }, el("h1", { tabindex: "-1" }, "Waiting for Headrace"), el("p", null, reason));
    show({ title: "Waiting", waitsFor: reason, element, stop: () => clearTimeout(retry) });
  }
  parts["sign-out"].hidden = false;
  retry = setTimeout(resume, RESUME);
}

/** Goes on with the key that is kept. */
async function resume() {
  close();
  app.session = null;
  const key = keptKey();
  let reason;
  if (key && !canBeKey(key)) {
    forget();
    reason = NO_KEY;
  } else if (key) {
    try {
      const session = await open(key);
      if (keptKey() !== key) return;
      app.session = session;
      if (app.session.workspace) begin();
    } catch (error) {
      if (keptKey() !== key) return;
      if (![400, 401].includes(error.status)) {
        wait(explain(error));
        return;
      }
      forget();
      reason = explain(error);
    }
  }
  route(reason);
}

takeFromAddress();
void resume();
