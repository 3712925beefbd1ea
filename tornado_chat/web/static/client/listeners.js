// Who listens to what comes, by the name of what it is. A fault of one that hears it costs no other.

import { report } from "./faults.js";

/** @template {{ [Name in keyof Told]: any[] }} Told What is told, by its name. */
export class Listeners {
  #all = /** @type {Map<keyof Told, Set<(...args: any[]) => void>>} */ (new Map());

  /** Hear of it from now on; what is returned ends that. @template {keyof Told} Name @param {Name} name @param {(...args: Told[Name]) => void} listener */
  on(name, listener) {
    const all = this.#all.get(name) ?? new Set();
    this.#all.set(name, all);
    all.add(listener);
    return () => {
      all.delete(listener);
    };
  }

  /** @template {keyof Told} Name @param {Name} name @param {Told[Name]} args */
  tell(name, ...args) {
    for (const listener of [...(this.#all.get(name) ?? [])]) {
      try {
        listener(...args);
      } catch (error) {
        report(error);
      }
    }
  }
}
