// Prints the data of each event of the stream at argv[2], and when that ends. npm's eventsource comes back by itself,
// unless it gives up.
import { EventSource } from "eventsource";

const source = new EventSource(process.argv[2]);
source.onmessage = ({ data }) => console.log(data);
source.onerror = ({ code, message }) => {
  console.log('{"type":"ended"}');
  if (source.readyState === EventSource.CLOSED) {
    console.error(`given up: ${code} ${message}`);
    process.exit(1);
  }
};
