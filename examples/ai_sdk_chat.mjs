// A chat by the AI SDK, in a terminal; in React, useChat takes the same transport.
//
//     tornado-chat serve --agent demo &
//     npm install ai@6
//     CHAT_TOKEN=$(tornado-chat token --user ann) node examples/ai_sdk_chat.mjs "What can you do?"
//
// CHAT_URL and CHAT_AGENT name another server and another agent, CHAT_ID a chat to go on with.
import { DefaultChatTransport, generateId, readUIMessageStream } from "ai";

const { CHAT_URL = "http://127.0.0.1:8080", CHAT_AGENT = "demo", CHAT_ID = generateId(), CHAT_TOKEN } = process.env;
const transport = new DefaultChatTransport({
  api: `${CHAT_URL}/v1/agents/${encodeURIComponent(CHAT_AGENT)}/chat`,
  headers: { Authorization: `Bearer ${CHAT_TOKEN}` },
});

async function show(stream) {
  let shown = "";
  for await (const message of readUIMessageStream({ stream })) {
    const text = message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
    process.stdout.write(text.slice(shown.length));
    shown = text;
  }
  process.stdout.write("\n");
}

const text = process.argv.slice(2).join(" ");
if (text) {
  // The id makes the question the same one if it has to be sent again.
  const messages = [{ id: generateId(), role: "user", parts: [{ type: "text", text }] }];
  await show(await transport.sendMessages({ chatId: CHAT_ID, messages, trigger: "submit-message" }));
} else {
  const stream = await transport.reconnectToStream({ chatId: CHAT_ID }); // null: nothing goes on there
  if (stream) await show(stream);
}
