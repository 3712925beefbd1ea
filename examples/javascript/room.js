// A room in the terminal: what is said there, and what you type. `@demo hello` asks an agent, whose answer grows.
// For Node 20 or newer, beside `make run`:
//
//     cd examples/javascript
//     npm install
//     node room.js lobby
//
// Kill the server and start it again: what you type meanwhile is sent then, and nothing is missing or doubled.

import { createInterface } from "node:readline";
import { Chat } from "tornado-chat-client";

const { TORNADO_CHAT_URL: url = "http://127.0.0.1:8080", TORNADO_CHAT_TOKEN: token, USER: name } = process.env;
const chat = new Chat({ url, token, name });
const room = chat.join(process.argv[2] ?? "lobby", { last: 20 });

const say = ({ name, text }) => console.log(`${name}: ${text}`);
room.on("message", (message) => message.streaming || say(message));
const shown = new Set(); // the answers that were shown as they grew, by their seq
room.on("ended", (message) => shown.has(message.seq) || say(message));
chat.on("state", ({ name, why = "no answer" }) => name === "waiting" && console.error(`(not connected: ${why})`));

await room.ready;
for await (const line of createInterface({ input: process.stdin })) {
  const [, agent, question] = /^@(\S+) (.+)/.exec(line) ?? [];
  try {
    if (!agent) await room.send(line);
    else {
      const answer = room.ask(agent, question);
      for await (const piece of answer) {
        shown.add(answer.message.seq);
        process.stdout.write(piece);
      }
    }
    if (agent) console.log();
  } catch (error) {
    console.error(`(${error.message})`);
  }
}
chat.close();
