// The page of all requests: what openapi.json says, to read.

import { el } from "./dom.js";

/**
 * The parts of a JSON Schema that the server uses.
 * @typedef {{
 *   $ref?: string, type?: string, description?: string, title?: string, default?: unknown, enum?: unknown[],
 *   examples?: unknown[], minimum?: number, maximum?: number, items?: Schema, anyOf?: Schema[],
 *   properties?: Record<string, Schema>, required?: string[],
 * }} Schema
 * @typedef {{ name: string, in: string, required?: boolean, schema: Schema, description?: string }} Parameter
 * @typedef {{ schema: Schema }} Media
 * @typedef {{
 *   summary: string, operationId: string, parameters: Parameter[],
 *   requestBody?: { required: boolean, content: Record<string, Media> },
 *   responses: Record<string, { description?: string, content?: Record<string, Media> }>,
 * }} Operation
 * @typedef {{
 *   paths: Record<string, Record<string, Operation>>, components: { schemas: Record<string, Schema> },
 * }} Description
 */

/** @param {string} id */
const at = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

/** @type {Record<string, Schema>} */
let schemas = {};

/** What a schema is, without the null that stands for an absent field. @param {Schema} schema @returns {Schema} */
function plain(schema) {
  const found = schema.$ref ? schemas[schema.$ref.split("/").pop() ?? ""] : schema;
  const parts = found?.anyOf?.filter(({ type }) => type !== "null") ?? [];
  return parts.length === 1 && parts[0] ? plain(parts[0]) : found ?? {};
}

/** The kind of a value in some words. @param {Schema} schema @returns {string} */
function kind(schema) {
  const found = plain(schema);
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (found.anyOf) return [...new Set(found.anyOf.map(kind))].join(" or ");
  if (found.type === "array") return `array of ${kind(found.items ?? {})}`;
  return found.title ?? found.type ?? "value";
}

/** A value that would do. @param {Schema} schema @returns {unknown} */
function sample(schema) {
  const found = plain(schema);
  if (found.examples?.length) return found.examples[0];
  if (found.enum) return found.enum[0];
  if (found.anyOf) return sample(found.anyOf.find(({ $ref }) => $ref?.endsWith("/Send")) ?? found.anyOf[0] ?? {});
  if (found.type === "object") return required(found);
  if (found.type === "array") return [sample(found.items ?? {})];
  if (found.type === "integer" || found.type === "number") return found.minimum ?? 0;
  if (found.type === "boolean") return true;
  return "text";
}

/** @param {Schema} schema */
function required({ required: names = [], properties = {} }) {
  const values = Object.fromEntries(names.map((name) => [name, sample(properties[name] ?? {})]));
  // What becomes an event needs an id of its own.
  return names.includes("type") && properties.id ? { ...values, id: `${Date.now()}-example` } : values;
}

/** @param {string} caption @param {[string, string][]} rows */
function list(caption, rows) {
  if (!rows.length) return [];
  return [el("h3", {}, caption), el("dl", {}, ...rows.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]))];
}

/** @param {Schema} schema @returns {[string, string][]} */
function fields(schema) {
  const { properties = {}, required: names = [] } = plain(schema);
  return Object.entries(properties).map(([name, field]) => [
    `${name}${names.includes(name) ? "" : "?"}`,
    plain(field).description ?? kind(field),
  ]);
}

/** A call from the shell. @param {string} method @param {string} path @param {Operation} operation */
function curl(method, path, { parameters, requestBody }) {
  let address = path;
  const query = new URLSearchParams();
  for (const { name, in: where, schema, required: needed } of parameters) {
    if (where === "path") address = address.replace(`{${name}}`, encodeURIComponent(String(sample(schema))));
    else if (where === "query" && needed) query.append(name, String([sample(schema)].flat()[0]));
  }
  const url = new URL(`..${address}${query.size ? `?${query}` : ""}`, location.href).href;
  const body = requestBody?.content["application/json"];
  const lines = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}'${url}'`, "  -H \"Authorization: Bearer $TOKEN\""];
  if (body && requestBody?.required) {
    lines.push("  -H 'Content-Type: application/json'", `  -d '${JSON.stringify(sample(body.schema))}'`);
  }
  return lines.join(" \\\n");
}

/** @param {string} method @param {string} path @param {Operation} operation */
function request(method, path, operation) {
  const said = operation.parameters.map(({ name, in: where, required: needed, description, schema }) => (
    /** @type {[string, string]} */ ([`${name}${needed ? "" : "?"}`, `${description ?? kind(schema)} (${where})`])
  ));
  const bodies = Object.entries(operation.requestBody?.content ?? {});
  const answers = Object.entries(operation.responses).map(([status, { description, content }]) => (
    /** @type {[string, string]} */ ([status, Object.entries(content ?? {})
      .map(([media, { schema }]) => `${media}: ${kind(schema)}`).join("; ") || (description ?? "an error")])
  ));
  return el("section", { id: operation.operationId },
    el("h2", {}, el("span", { class: "method" }, method.toUpperCase()), path),
    el("p", {}, `${operation.summary}.`),
    ...list("Parameters", said),
    ...list(`Body: ${bodies.map(([media]) => media).join(", ")}`, bodies[0] ? fields(bodies[0][1].schema) : []),
    ...list("Answers", answers),
    el("h3", {}, "From the shell"), el("pre", { tabindex: 0 }, curl(method, path, operation)));
}

async function show() {
  const answer = await fetch("openapi.json");
  if (!answer.ok) throw new Error(`it was answered ${answer.status}`);
  const description = /** @type {Description} */ (await answer.json());
  schemas = description.components.schemas;
  const all = Object.entries(description.paths).flatMap(([path, methods]) => (
    Object.entries(methods).map(([method, operation]) => ({ method, path, operation }))
  ));
  at("contents").append(el("ul", {}, ...all.map(({ method, path, operation }) => el("li", {},
    el("span", { class: "method" }, method.toUpperCase()),
    el("a", { href: `#${operation.operationId}` }, path)))));
  at("requests").append(...all.map(({ method, path, operation }) => request(method, path, operation)));
  if (location.hash) document.getElementById(location.hash.slice(1))?.scrollIntoView();
}

show().catch((error) => {
  at("failure").textContent = `openapi.json cannot be shown: ${error instanceof Error ? error.message : error}`;
  at("failure").hidden = false;
});
