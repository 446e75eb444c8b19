// Signing in, and choosing a workspace where the key does not say which.

import { explain } from "./api.js";
import { el, write } from "./dom.js";
import { canBeKey, open } from "./session.js";

/** What is said of a key that cannot be sent. */
export const NO_KEY = "That is no key: it has only letters, digits and signs, and no spaces.";

function form(id, { title, lead, label, hint, type, action, submit }) {
  const error = el("p", { class: "field-error", id: `${id}-error`, role: "alert" });
  const input = el("input", {
    id, type, name: id, autocomplete: "off", autocapitalize: "none", spellcheck: "false", required: true,
    "aria-describedby": `${id}-hint ${id}-error`,
  });
  const button = el("button", { type: "submit", class: "primary" }, action);
  const view = el("form", { class: "card sign-in", novalidate: true, submit: async (event) => {
    event.preventDefault();
    const value = input.value.trim();
    write(error, "");
    input.removeAttribute("aria-invalid");
    button.disabled = true;
    const problem = value ? await submit(value) : `Enter ${label.toLowerCase()} first.`;
    button.disabled = false;
    if (!problem) return;
    write(error, problem);
    input.setAttribute("aria-invalid", "true");
    input.focus();
  } },
  el("h1", { tabindex: "-1" }, title),
  el("p", { class: "lead" }, lead),
  el("label", { for: id }, label),
  input,
  el("p", { class: "hint", id: `${id}-hint` }, hint),
  error,
  button);
  return { title, element: view, focus: input };
}

/** The form that asks for a key; `done(session)` once one is accepted. */
export function signIn(done, reason) {
  const view = form("key", {
    title: "Sign in",
    lead: "See where the fleet stands, vehicle by vehicle, as it happens.",
    label: "API key or token",
    hint: "It stays in this tab and is forgotten when the tab is closed. “headrace up” writes one into its env file as API_KEY.",
    type: "password",
    action: "Sign in",
    submit: async (key) => {
      try {
        if (!canBeKey(key)) return NO_KEY;
        done(await open(key));
        return null;
      } catch (error) {
        if (error.status === 401) return "That key is not accepted: it may be mistyped, revoked or expired.";
        return error.status === 0 ? "Headrace cannot be reached. Try again in a moment." : explain(error);
      }
    },
  });
  if (reason) view.element.querySelector(".field-error").textContent = reason;
  return view;
}

/** The form that asks for a workspace; `done()` once the session may use one. */
export function chooseWorkspace(session, done) {
  return form("workspace-name", {
    title: "Choose a workspace",
    lead: "This key is good for any workspace.",
    label: "Workspace",
    hint: "For example demo, the one that “headrace up” makes.",
    type: "text",
    action: "Open",
    submit: async (name) => {
      if (!/^[a-z0-9][a-z0-9_-]{0,62}$/.test(name)) return "A workspace's name has 1 to 63 of a-z, 0-9, - and _, and begins with a letter or digit.";
      try {
        await session.api.get(`/v1/workspaces/${encodeURIComponent(name)}/health`);
      } catch (error) {
        return explain(error);
      }
      session.use(name);
      done();
      return null;
    },
  });
}
