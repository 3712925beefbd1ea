// Elements made by calls: text is always a text node, so nothing that anyone writes becomes markup.

/** @typedef {Node | string | null | undefined} Child */

/**
 * `attributes` and children that are null are left out, and attributes that are false.
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Record<string, string | number | boolean | null | undefined>} attributes
 * @param {Child[]} children
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child !== null && child !== undefined) node.append(child);
  return node;
}

const PATHS = {
  send: "M12 19.500V5M5.500 11.500 12 5l6.500 6.500",
  menu: "M4 7h16M4 12h16M4 17h10",
  close: "M6.500 6.500l11 11M17.500 6.500l-11 11",
  enter: "M5 12h14M13 6l6 6-6 6",
  plus: "M12 5v14M5 12h14",
  more: "M6 12h.01M12 12h.01M18 12h.01",
  down: "M12 5v14M5.500 12.500 12 19l6.500-6.500",
};

/** @param {keyof typeof PATHS} name */
export const icon = (name) => drawn(PATHS[name]);

/** @param {string} line */
export function drawn(line) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", line);
  svg.append(path);
  return svg;
}

/** All elements with an id, by it: `byId.scroller`. */
export const byId = /** @type {Elements} */ (new Proxy({}, {
  get: (_, id) => document.getElementById(String(id).replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)),
}));

/**
 * The nearest element that fits `selector`, from where `event` happened outwards.
 * @param {Event} event
 * @param {string} selector
 * @returns {HTMLElement | null}
 */
export function around(event, selector) {
  return event.target instanceof Element ? event.target.closest(selector) : null;
}

/**
 * What of `node` has the focus, by its `data-focus`, so that its like can have it after `node` was filled anew.
 * @param {HTMLElement} node
 */
export function focusIn(node) {
  const { activeElement } = document;
  return activeElement instanceof HTMLElement && node.contains(activeElement) ? activeElement.dataset.focus : undefined;
}

/** The element of `node` that is the like of what had the focus. @param {HTMLElement} node @param {string} focused */
export function refocus(node, focused) {
  return /** @type {HTMLElement | null} */ (node.querySelector(`[data-focus="${CSS.escape(focused)}"]`));
}

/** Load a style sheet. Resolves when it is in force: what is shown before would jump. @param {string} name */
export function styled(name) {
  return new Promise((resolve, reject) => {
    const href = new URL(name, import.meta.url).href;
    if ([...document.styleSheets].some((sheet) => sheet.href === href)) return resolve(null);
    const link = el("link", { rel: "stylesheet", href });
    link.addEventListener("load", resolve);
    link.addEventListener("error", () => {
      link.remove();
      reject(new Error(`${name} did not come`));
    });
    document.head.append(link);
  });
}
