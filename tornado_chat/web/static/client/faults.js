// Our own faults: they are told of where the app's are, and stop nothing else.

/** As an exception that nobody has caught. @param {unknown} error */
export function report(error) {
  if ("reportError" in globalThis) reportError(error);
  else setTimeout(() => { throw error; }); // Node
}
