// A chat by the AI SDK: each line that comes is something to do, and each line that goes what came of it.
// node chat.mjs ADDRESS TOKEN CHAT
import { createInterface } from "node:readline";
import { DefaultChatTransport, readUIMessageStream } from "ai";

const [api, token, chatId] = process.argv.slice(2);
const transport = new DefaultChatTransport({ api, headers: { Authorization: `Bearer ${token}` } });
const messages = [];

async function read(stream, cutAt, cut) {
  let message;
  const transient = [];
  let error = null;
  const [one, other] = stream.tee();
  const watching = (async () => {
    for await (const chunk of other) if (chunk.transient || chunk.type === "abort") transient.push(chunk);
  })().catch(() => {});
  try {
    for await (message of readUIMessageStream({ stream: one, onError: (e) => (error ??= String(e.message)) })) {
      const text = message.parts.map((part) => part.text ?? "").join("");
      if (cutAt && text.includes(cutAt)) {
        cut();
        break;
      }
    }
  } catch (e) {
    error ??= String(e.message);
  }
  if (!cutAt) await watching;
  return { message, transient, error };
}

async function act({ act, id, text, cutAt }) {
  if (act === "resume") {
    const stream = await transport.reconnectToStream({ chatId });
    return stream ? read(stream) : { message: null };
  }
  const controller = new AbortController();
  if (act === "send") messages.push({ id, role: "user", parts: [{ type: "text", text }] });
  if (act === "edit") messages.at(-1).parts = [{ type: "text", text }];
  const trigger = act === "regenerate" ? "regenerate-message" : "submit-message";
  const stream = await transport.sendMessages({ chatId, messages, trigger, abortSignal: controller.signal });
  return read(stream, cutAt, () => controller.abort());
}

for await (const line of createInterface({ input: process.stdin })) {
  const found = await act(JSON.parse(line)).catch((e) => ({ failed: String(e.message) }));
  console.log(JSON.stringify(found));
}
process.exit(0);
