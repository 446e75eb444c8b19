// Light or dark: what was chosen, else what the system prefers. Not a module, so that it is known before
// anything is painted.
(() => {
  const KEY = "headrace.theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem(KEY);
  } catch {
    // Storage may be forbidden; then it is not remembered.
  }
  const current = () => chosen ?? (system.matches ? "dark" : "light");
  const show = () => {
    root.dataset.theme = current();
    const button = document.getElementById("theme");
    if (button) {
      button.textContent = current() === "dark" ? "Light" : "Dark";
      button.setAttribute("aria-label", current() === "dark" ? "Use light colours" : "Use dark colours");
    }
    dispatchEvent(new Event("headrace:theme"));
  };
  show();
  system.addEventListener("change", show);
  addEventListener("DOMContentLoaded", () => {
    document.getElementById("theme").addEventListener("click", () => {
      chosen = current() === "dark" ? "light" : "dark";
      try {
        localStorage.setItem(KEY, chosen);
      } catch {
        // As above.
      }
      show();
    });
    show();
  });
})();
