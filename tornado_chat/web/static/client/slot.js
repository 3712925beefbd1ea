// What is kept for us beyond a reload, by its key. A blocked or full storage costs the memory of a reload, never the chat.

/** @import { Kind } from "./network.js" */
/** @import { Item } from "./outbox.js" */

/**
 * What the client keeps, by its key. An app may keep more in the same slots.
 * @typedef {{
 *   name: string, token: string | null, pasted: boolean, outbox: Item[], transport: { kind: Kind, at: number } | null,
 *   holders: Record<string, number>,
 * }} Kept
 */

/**
 * `set` with null removes; it returns false when nothing was kept.
 * @template {object} [K=Kept]
 * @typedef {{
 *   get: <Key extends keyof K>(key: Key, fallback: K[Key]) => K[Key],
 *   set: <Key extends keyof K>(key: Key, value: K[Key] | null) => boolean,
 * }} Slot
 */

/** A slot in `storage`; null: it is blocked. @param {Storage | null} storage @param {string} prefix @returns {Slot<any>} */
export function slot(storage, prefix) {
  const unkept = new Map(); // what the browser would not take
  return {
    get(key, fallback) {
      if (unkept.has(key)) return unkept.get(key) ?? fallback;
      try {
        const text = storage?.getItem(prefix + String(key)) ?? null;
        return text === null ? fallback : JSON.parse(text);
      } catch {
        return fallback;
      }
    },
    set(key, value) {
      unkept.set(key, value);
      try {
        if (value === null) storage?.removeItem(prefix + String(key));
        else storage?.setItem(prefix + String(key), JSON.stringify(value));
        if (storage) unkept.delete(key);
      } catch {
        // full, or blocked since
      }
      return !unkept.has(key);
    },
  };
}
