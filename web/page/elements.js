// Builds the page's elements, in the pack's style.

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  upload: "M8 11V2M4.5 5.5 8 2l3.5 3.5M2 10v4h12v-4",
  undo: "M5.5 2.5 2.5 5.5l3 3M2.5 5.5H10a3.75 3.75 0 0 1 0 7.5H5",
  redo: "M10.5 2.5l3 3-3 3M13.5 5.5H6A3.75 3.75 0 0 0 6 13h5",
  clear: "M2.5 4h11M6 4V2h4v2M4 4l.7 10h6.6L12 4M6.7 7v4.500M9.300 7v4.500",
  minus: "M3 8h10",
  plus: "M3 8h10M8 3v10",
  fit: "M2 6V2h4M10 2h4v4M14 10v4h-4M6 14H2v-4",
  large: "M9.500 2H14v4.500M14 2 9 7M6.500 14H2V9.500M2 14l5-5",
  close: "M3.500 3.500l9 9M12.500 3.500l-9 9",
  exclude: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2M5 8h6",
  eye: "M1.500 8S4 3.500 8 3.500 14.500 8 14.500 8 12 12.500 8 12.500 1.500 8 1.500 8M8 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4",
  hidden: "M1.500 8S4 3.500 8 3.500 14.500 8 14.500 8 12 12.500 8 12.500 1.500 8 1.500 8M2.500 13.500l11-11",
  play: "M4.500 2.500v11l8.500-5.500z",
  stop: "M4 4h8v8H4z",
  repeat: "M3 7V6a2 2 0 0 1 2-2h8M10.500 1.500 13 4l-2.500 2.500M13 9v1a2 2 0 0 1-2 2H3M5.500 9.500 3 12l2.500 2.500",
};

export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && name !== "list") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  if (name === "play" || name === "stop") path.setAttribute("fill", "currentColor");
  svg.append(path);
  return svg;
}

export function button(name, label, onclick, properties = {}) {
  const made = element("button", { type: "button", title: label, onclick, ...properties }, icon(name));
  made.setAttribute("aria-label", label);
  return made;
}

export function setIcon(made, name, label) {
  if (made.dataset.icon === name && made.title === label) return;
  made.dataset.icon = name;
  made.title = label;
  made.setAttribute("aria-label", label);
  made.replaceChildren(icon(name));
}

const styles = new Set();

// Load a style sheet, once per page.
export function addStyle(url) {
  if (styles.has(url.href)) return;
  styles.add(url.href);
  document.head.append(element("link", { rel: "stylesheet", href: url.href }));
}

// What all of the pack's elements share, before any style of theirs.
export const addBaseStyle = () => addStyle(new URL("./style.css", import.meta.url));

// Keep clicks and keys in here from the graph. Its own commands (queue, save) still work; single keys and undo do not
// reach it.
export function keepEvents(root) {
  for (const kind of ["pointerdown", "pointermove", "dblclick", "contextmenu", "keyup"]) {
    root.addEventListener(kind, (event) => event.stopPropagation());
  }
  root.addEventListener("keydown", (event) => {
    const command = (event.ctrlKey || event.metaKey) && !"zya".includes(event.key.toLowerCase());
    if (!command) event.stopPropagation();
  });
}
