// The page of all requests: what openapi.json says, to read, and to try from a shell.

import { el } from "./dom.js";

/**
 * The parts of a JSON Schema that the server uses.
 * @typedef {{
 *   $ref?: string, type?: string, description?: string, title?: string, default?: unknown, enum?: unknown[],
 *   examples?: unknown[], minimum?: number, maximum?: number, items?: Schema, anyOf?: Schema[],
 *   properties?: Record<string, Schema>, required?: string[], additionalProperties?: Schema,
 * }} Schema
 * @typedef {{ name: string, in: string, required?: boolean, schema: Schema, description?: string }} Parameter
 * @typedef {Record<string, { schema: Schema }>} Content
 * @typedef {{
 *   summary: string, operationId: string, parameters: Parameter[], security?: Record<string, string[]>[],
 *   requestBody?: { required: boolean, content: Content },
 *   responses: Record<string, { $ref?: string, description?: string, content?: Content }>,
 * }} Operation
 * @typedef {{ description: string, name?: string, scheme?: string, in?: string }} Scheme
 * @typedef {{
 *   info: { description: string }, paths: Record<string, Record<string, Operation>>,
 *   components: { schemas: Record<string, Schema>, securitySchemes: Record<string, Scheme> },
 * }} Description
 */

const EVENTS = "text/event-stream";

/** @param {string} id */
const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @type {Record<string, Schema>} */
let schemas = {};

/** @param {string} ref */
const named = (ref) => ref.slice(ref.lastIndexOf("/") + 1);

/** What a schema is, in full. @param {Schema} schema @returns {Schema} */
const whole = (schema) => (schema.$ref ? schemas[named(schema.$ref)] ?? {} : schema);

/** The alternatives of a schema, those of its alternatives among them. @param {Schema} schema @returns {Schema[]} */
const choices = (schema) => (schema.anyOf ? schema.anyOf.flatMap(choices) : [schema]);

/** Those that are not the null which stands for an absent field. @param {Schema} schema */
const some = (schema) => choices(schema).filter(({ type }) => type !== "null");

// Words

/** Text, with what stands between backticks as code. @param {string} text */
const prose = (text) => text.split("`").map((part, place) => (place % 2 ? el("code", {}, part) : part));

/** The kind of a value; types that have a name lead to it. @param {Schema} schema @returns {(Node | string)[]} */
function kind(schema) {
  if (schema.$ref) return [el("a", { href: `#type-${named(schema.$ref)}` }, named(schema.$ref))];
  if (schema.anyOf) return choices(schema).flatMap((part, place) => [place ? " or " : "", ...kind(part)]);
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if (schema.type === "array") return ["array of ", ...kind(schema.items ?? {})];
  if (schema.additionalProperties?.type || schema.additionalProperties?.$ref) {
    return ["object, each value ", ...kind(schema.additionalProperties)];
  }
  return [schema.type === "boolean" ? "true or false" : schema.type ?? "value"];
}

/** What a field is. @param {Schema} schema @param {string} [about] */
function field(schema, about) {
  const parts = some(schema);
  const only = parts.length === 1 && parts[0] ? parts[0] : schema;
  const said = about ?? only.description ?? "";
  const words = kind(parts.length === 1 ? only : { anyOf: parts });
  const usual = only.default ?? schema.default;
  return [
    ...(words.length === 1 && said.includes(String(words[0])) ? [] : [...words, said && ": "]),
    ...prose(said),
    usual === undefined || usual === null || usual === false ? "" : ` (${JSON.stringify(usual)} without it)`,
  ];
}

/** @typedef {[name: Node | string, text: (Node | string)[]]} Row */

/** @param {Row[]} rows */
const list = (rows) => el("dl", {}, ...rows.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, ...text)]));

/** The fields of an object. @param {Schema} schema @returns {Row[]} */
const fields = ({ properties = {}, required = [] }) => Object.entries(properties).map(([name, schema]) => [
  `${name}${required.includes(name) ? "" : "?"}`, field(schema),
]);

/** One of several objects in a line: its `type`, and the names of its fields. @param {Schema} schema @returns {Row} */
function brief(schema) {
  const { properties = {}, required = [] } = whole(schema);
  const names = Object.keys(properties).filter((name) => name !== "type");
  const tag = properties.type?.enum?.[0];
  const told = names.map((name) => `${name}${required.includes(name) ? "" : "?"}`).join(", ");
  return [el("a", { href: `#type-${named(schema.$ref ?? "")}` }, String(tag ?? named(schema.$ref ?? ""))), [told || "no fields"]];
}

/** A body, with its fields. @param {Schema} schema @returns {Node[]} */
function shape(schema) {
  const parts = choices(schema);
  const array = parts.find(({ type }) => type === "array");
  if (array) {
    const one = parts.length > 1 ? "One of these, or an array of them:" : "An array. Of each entry:";
    return [el("p", {}, one), ...shape(array.items ?? {})];
  }
  const refs = parts.filter(({ $ref }) => $ref);
  if (refs.length > 1) {
    const others = parts.filter((part) => !part.$ref).flatMap(kind);
    return [el("p", {}, "By its ", el("code", {}, "type"), ", one of", others.length ? " (or " : "", ...others, others.length ? ")" : "", ":"),
      list(refs.map(brief))];
  }
  const { description, properties } = whole(schema);
  const name = schema.$ref ? [...kind(schema), description ? ": " : ""] : [];
  return [
    ...(name.length || description ? [el("p", {}, ...name, ...prose(description ?? ""))] : []),
    properties ? list(fields(whole(schema))) : el("p", {}, ...kind(schema)),
  ];
}

/** Media types, those of one schema together. @param {Content} content @returns {[string, Schema][]} */
function medias(content) {
  /** @type {Map<string, [string, Schema]>} */
  const found = new Map();
  for (const [media, { schema }] of Object.entries(content)) {
    const key = JSON.stringify(schema);
    found.set(key, [found.has(key) ? `${found.get(key)?.[0]} or ${media}` : media, schema]);
  }
  return [...found.values()];
}

// Samples

/** A value that would do. @param {Schema} schema @returns {unknown} */
function sample(schema) {
  const found = whole(some(schema)[0] ?? {});
  if (found.examples?.length) return found.examples[0];
  if (found.enum) return found.enum[0];
  if (found.type === "object") return object(found, found.required ?? []);
  if (found.type === "array") return [sample(found.items ?? {})];
  if (found.type === "integer" || found.type === "number") return found.minimum ?? 0;
  return found.type === "boolean" ? true : "text";
}

/** @param {Schema} schema @param {string[]} names */
const object = ({ properties = {} }, names) => Object.fromEntries(names.map((name) => [
  // What becomes an event needs an id of its own.
  name, name === "id" ? `${Date.now()}-example` : sample(properties[name] ?? {}),
]));

/** A call from the shell. @param {string} method @param {string} path @param {Operation} operation @param {string} media */
function curl(method, path, { parameters, requestBody, security }, media) {
  let address = path;
  const query = new URLSearchParams();
  for (const { name, in: where, schema, required } of parameters) {
    if (where === "path") address = address.replace(`{${name}}`, encodeURIComponent(String(sample(schema))));
    else if (where === "query" && required) query.append(name, String([sample(schema)].flat()[0]));
  }
  const url = new URL(`..${address}${query.size ? `?${query}` : ""}`, location.href).href;
  const lines = [`curl ${media === EVENTS ? "-N " : ""}${method === "get" ? "" : `-X ${method.toUpperCase()} `}'${url}'`];
  const first = security?.[0];
  const gives = first !== undefined && !Object.keys(first).length;
  if (!gives) lines.push("  -H \"Authorization: Bearer $TOKEN\"");
  if (media === EVENTS) lines.push(`  -H 'Accept: ${EVENTS}'`);
  const body = requestBody?.content["application/json"];
  if (body && (requestBody?.required || gives)) {
    const said = requestBody?.required ? sample(body.schema) : object(body.schema, Object.keys(body.schema.properties ?? {}));
    lines.push("  -H 'Content-Type: application/json'", `  -d '${JSON.stringify(said)}'`);
  }
  return lines.join(" \\\n");
}

/** @param {string} text */
const shell = (text) => el("pre", { tabindex: 0 }, text);

// The page

/** @param {string} method @param {string} path @param {Operation} operation */
function request(method, path, operation) {
  const { operationId, parameters, requestBody, responses, summary } = operation;
  const answers = Object.entries(responses).filter(([, { $ref }]) => !$ref);
  const kinds = answers.flatMap(([, { content = {} }]) => Object.keys(content));
  const streams = kinds.includes(EVENTS);
  const plain = kinds.includes("application/json");
  return el("section", { id: operationId },
    el("h3", {}, el("span", { class: "method" }, method.toUpperCase()), path),
    el("p", {}, ...prose(`${summary}.`)),
    ...(plain ? [el("h4", {}, streams ? "From the shell: a page" : "From the shell"), shell(curl(method, path, operation, ""))] : []),
    ...(streams ? [el("h4", {}, "From the shell: a stream"), shell(curl(method, path, operation, EVENTS))] : []),
    ...(parameters.length ? [el("h4", {}, "Parameters"), list(parameters.map(({ name, in: where, required, description, schema }) => (
      [`${name}${required ? "" : "?"}`, [...field(schema, description), `, in the ${where}`]]
    )))] : []),
    ...medias(requestBody?.content ?? {}).flatMap(([media, schema]) => [el("h4", {}, `Body: ${media}`), ...shape(schema)]),
    ...answers.flatMap(([status, { content = {}, description = "" }]) => medias(content).flatMap(([media, schema]) => [
      el("h4", {}, `Answer ${status}: ${media}`),
      ...(media === EVENTS ? [el("p", {}, ...prose(`${description}.`))] : []),
      ...shape(schema),
    ])),
    el("p", { class: "refused" }, "Answer of 400 or more: ", ...kind({ $ref: "/Refused" }), "."));
}

/** @param {Description} description */
function begin({ info, components }) {
  const session = new URL("../v1/session", location.href).href;
  at("about").append(
    ...info.description.split("\n\n").map((text) => el("p", {}, ...prose(text))),
    el("h2", {}, "A token"),
    el("p", {}, "The samples take it from ", el("code", {}, "$TOKEN"), ". A guest's, where guests are let in:"),
    shell(`TOKEN=$(curl -s -X POST '${session}' \\\n  -H 'Content-Type: application/json' \\\n  -d '{"name":"Ada"}' | sed 's/.*"token":"\\([^"]*\\)".*/\\1/')`),
    el("p", {}, "It is given in one of these places:"),
    list(Object.values(components.securitySchemes).map(({ description, name, scheme, in: where }) => (
      [name ? `${where} ${name}` : `header Authorization (${scheme})`, prose(description)]
    ))),
    el("h2", {}, "What is refused"),
    ...shape({ $ref: "/Refused" }),
    ...shape({ $ref: "/Refusal" }));
}

async function show() {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`it was answered ${answer.status}`);
  const description = /** @type {Description} */ (await answer.json());
  schemas = description.components.schemas;
  begin(description);
  const all = Object.entries(description.paths).flatMap(([path, methods]) => (
    Object.entries(methods).map(([method, operation]) => ({ method, path, operation }))
  ));
  at("contents").append(el("ul", {}, ...all.map(({ method, path, operation }) => el("li", {},
    el("span", { class: "method" }, method.toUpperCase()),
    el("a", { href: `#${operation.operationId}` }, path)))));
  at("requests").append(...all.map(({ method, path, operation }) => request(method, path, operation)));
  at("types").append(...Object.entries(schemas).map(([name, schema]) => el("section", { id: `type-${name}` },
    el("h3", {}, name),
    ...(schema.description ? [el("p", {}, ...prose(schema.description))] : []),
    list(fields(schema)))));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

show().catch((error) => {
  at("failure").textContent = `openapi.json cannot be shown: ${error instanceof Error ? error.message : error}`;
  at("failure").hidden = false;
});
