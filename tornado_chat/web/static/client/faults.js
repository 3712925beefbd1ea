// What was thrown: a refusal ends a transport, anything else is a fault of ours, which is told of and stops nothing else.

import { Refusal } from "./requests.js";

/** @import { End } from "./connection.js" */

/** As an exception that nobody has caught. @param {unknown} error */
export function report(error) {
  if ("reportError" in globalThis) reportError(error);
  else setTimeout(() => { throw error; }); // Node
}

/** How a transport ended by what was thrown. @param {unknown} error @returns {End} */
export function endedBy(error) {
  if (!(error instanceof Refusal)) {
    report(error);
    return { code: 1006 };
  }
  return { code: error.status, wait: error.wait, why: error.error?.message };
}
