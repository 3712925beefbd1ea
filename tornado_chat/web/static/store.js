// What the browser keeps for the page.

import { slot } from "./client/slot.js";

/** @import { Slot } from "./client/slot.js" */

/** The rooms that a user followed. @typedef {{ user: string, rooms: string[] }} Rooms */

/**
 * What the page keeps beside what the client does. (`rooms`: those that were visited, where it kept them in former versions.)
 * @typedef {Slot & Slot<{ followed: Rooms | null, rooms: string[], drafts: Record<string, string> }>} PageSlot
 */

/** @param {"localStorage" | "sessionStorage"} name */
function area(name) {
  try {
    return globalThis[name];
  } catch {
    return null; // access itself throws where cookies are blocked
  }
}

/** For all tabs: the name, the rooms followed, the newest guest token, which of them hold a request open. */
export const shared = /** @type {PageSlot} */ (slot(area("localStorage"), "tornado-chat."));

/** For this tab alone, reloads included: what is not yet acknowledged, drafts, the token in use, the transport. */
export const tab = /** @type {PageSlot} */ (slot(area("sessionStorage"), "tornado-chat."));
