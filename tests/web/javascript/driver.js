// An app with the packed client: it does what each line of its stdin says, and tells of it on a line of stdout.
// A line is {"id", "code", "argument"}; the code is that of an async function of `app` and `argument`. `app` is an object
// to keep things in, beginning with what the client exports.

import { createInterface } from "node:readline";
import * as client from "tornado-chat-client";

const app = { ...client, storage: storage(), watch };
const AsyncFunction = (async () => {}).constructor;

/** A Storage, which outlives a chat here as that of a browser outlives a page. */
function storage() {
  const kept = new Map();
  return {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, value),
    removeItem: (key) => kept.delete(key),
  };
}

/** What a room tells, as it comes. */
function watch(room) {
  const seen = { seqs: [], texts: [], kinds: new Set(), resets: 0 };
  room.on("event", ({ seq }) => seen.seqs.push(seq));
  room.on("message", ({ text }) => seen.texts.push(text));
  room.on("reset", () => seen.resets++);
  return seen;
}

createInterface({ input: process.stdin }).on("line", async (line) => {
  const { id, code, argument } = JSON.parse(line);
  let answer;
  try {
    answer = { id, value: (await new AsyncFunction("app", "argument", code)(app, argument)) ?? null };
  } catch (error) {
    answer = { id, error: error.code ?? String(error.stack), message: error.message };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
});
