// How long to wait before another attempt, in ms: as long as the server asks for, wherever it says so, or a back-off.

/** Exponential back-off with full jitter: many clients must not come back at the same moment. @param {number} attempt */
export function backoff(attempt, random = Math.random) {
  return random() * Math.min(30_000, 500 * 2 ** attempt);
}

/** What the reason of a close asks for, or null. @param {string} reason */
export function closeAsks(reason) {
  const match = /retry_after_ms=(\d{1,9})\b/.exec(reason);
  return match ? Number(match[1]) : null;
}

/** What the header of a refused handshake asks for, or null. It counts in seconds. @param {Headers} headers */
export function headerAsks(headers) {
  return Number(headers.get("Retry-After")) * 1_000 || null;
}

/**
 * What an `error` asks for, or null. It counts in seconds; whoever is told the same comes back a little apart.
 * @param {Pick<Wire.Failure, "retry_after">} error
 */
export function errorAsks(error, random = Math.random) {
  return error.retry_after === undefined ? null : error.retry_after * 1_000 * (1 + random() / 4);
}
