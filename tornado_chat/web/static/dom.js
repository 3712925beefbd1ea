// Elements made by calls: text is always a text node, so nothing that anyone writes becomes markup.

/** `attributes` that are null or false are left out; children are nodes or strings. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const PATHS = {
  react: "M12 21a9 9 0 1 1 0-18 9 9 0 0 1 0 18ZM8.500 14.200c.8 1.300 2 2 3.500 2s2.700-.7 3.500-2M9 9.500v.01M15 9.500v.01",
  reply: "M9.500 6 4 11.500 9.500 17M4.500 11.500H14c3.600 0 6 2.300 6 6.500",
  edit: "M4 20l.9-4L16.500 4.400a1.900 1.900 0 0 1 2.700 0l.4.4a1.900 1.900 0 0 1 0 2.700L8 19.100 4 20ZM14.500 6.500l3 3",
  delete: "M5 7h14M10 7V4.500h4V7M7 7l.8 12.500h8.400L17 7M10.500 10.500v6M13.500 10.500v6",
  send: "M12 19.500V5M5.500 11.500 12 5l6.500 6.500",
  menu: "M4 7h16M4 12h16M4 17h10",
  close: "M6.500 6.500l11 11M17.500 6.500l-11 11",
  enter: "M5 12h14M13 6l6 6-6 6",
  down: "M12 5v14M5.500 12.500 12 19l6.500-6.500",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** All elements with an id, by it: `byId.scroller`. */
export const byId = new Proxy({}, { get: (_, id) => document.getElementById(id.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)) });
