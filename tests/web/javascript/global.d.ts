// The protocol's types are at hand in all of the page's code. For the type check only.

import * as Protocol from "../../../tornado_chat/web/static/client/wire.js";

declare global {
  export import Wire = Protocol;
}
