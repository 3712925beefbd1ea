// Prints the data of each event of the stream at argv[2]. @microsoft/fetch-event-source comes back if it is asked to.
import { fetchEventSource } from "@microsoft/fetch-event-source";

// It was made for browsers.
globalThis.window = globalThis;
globalThis.document = { addEventListener() {}, removeEventListener() {} };

fetchEventSource(process.argv[2], {
  openWhenHidden: true,
  onmessage: ({ event, data }) => {
    // An empty `event` is a message, and a block without data is one too, here.
    if (event === "" && data !== "") console.log(data);
  },
  onclose: () => {
    throw new Error("it ended: come back");
  },
});
