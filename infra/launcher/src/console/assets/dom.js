// Elements by the DOM's own functions: what comes from outside is only ever text or an attribute's value,
// so nothing of it can become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name, value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An element. Attributes that are functions are listeners by the name of their event. */
export function el(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same of an SVG. */
export function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Writes `text` into `node` if it is not there already; whether it was not. */
export function write(node, text) {
  if (node.textContent === text) return false;
  node.textContent = text;
  return true;
}

/** Marks for a moment that `node` shows something new. */
export function mark(node) {
  node.classList.remove("changed");
  // Read so that the animation begins anew.
  void node.offsetWidth;
  node.classList.add("changed");
  // A row that is put elsewhere would be marked anew.
  node.addEventListener("animationend", () => node.classList.remove("changed"), { once: true });
}

/** A table: `columns` are names or `{name, number}`; each row is a list of text or nodes. */
export function table(caption, columns, rows, empty) {
  const heads = columns.map((column) => (typeof column === "string" ? { name: column } : column));
  const cell = (value, index) =>
    el(index === 0 ? "th" : "td", { scope: index === 0 ? "row" : null, class: heads[index].number ? "number" : null }, value ?? "–");
  const body = rows.length
    ? rows.map((row) => el("tr", null, row.map(cell)))
    : [el("tr", null, el("td", { colspan: heads.length, class: "empty" }, empty ?? "Nothing."))];
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table: ${caption}` },
    el("table", null,
      el("caption", { class: "unseen" }, caption),
      el("thead", null, el("tr", null, heads.map((head) => el("th", { scope: "col", class: head.number ? "number" : null }, head.name)))),
      el("tbody", null, body)));
}

/** A part of a page under a heading. */
export function card(title, attributes, ...children) {
  const id = `card-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  const of = attributes?.class ? `card ${attributes.class}` : "card";
  return el("section", { ...attributes, class: of, "aria-labelledby": id }, el("h2", { id }, title), ...children);
}
