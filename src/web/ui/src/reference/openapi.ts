// The reference as the service tells it (OpenAPI 3.1), as far as the page reads it; and what can be asked of it without a page.

import { reference as t } from "../shared/texts-reference";

export interface Schema {
  $ref?: string;
  type?: string | string[];
  title?: string;
  description?: string;
  format?: string;
  enum?: unknown[];
  const?: unknown;
  pattern?: string;
  default?: unknown;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  minItems?: number;
  maxItems?: number;
  minProperties?: number;
  maxProperties?: number;
  items?: Schema;
  properties?: Record<string, Schema>;
  patternProperties?: Record<string, Schema>;
  additionalProperties?: Schema | boolean;
  required?: string[];
  allOf?: Schema[];
  anyOf?: Schema[];
  oneOf?: Schema[];
}

export interface Media {
  schema?: Schema;
  example?: unknown;
  "x-item-schema"?: Schema;
}

export interface Parameter {
  name: string;
  in: string;
  required?: boolean;
  description?: string;
  schema?: Schema;
  example?: unknown;
}

export interface ResponseOf {
  description: string;
  headers?: Record<string, { description?: string }>;
  content?: Record<string, Media>;
}

export interface Operation {
  operationId: string;
  tags: string[];
  summary: string;
  description?: string;
  parameters?: Parameter[];
  requestBody?: { description?: string; content: Record<string, Media> };
  responses: Record<string, ResponseOf>;
  security?: Record<string, string[]>[];
  "x-frames"?: Record<string, Schema>;
}

export interface OpenApi {
  info: { title: string; version: string; description?: string };
  tags: { name: string; description?: string }[];
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
}

/** An operation, and where it is. */
export interface Entry {
  path: string;
  method: string;
  operation: Operation;
}

/** A group of operations. */
export interface Group {
  name: string;
  description: string;
  entries: Entry[];
}

const ORDER = ["get", "post", "put", "delete"];

/** The operations by group, in the order of the groups; within one by path and method. */
export function groupsOf(api: OpenApi): Group[] {
  const entries = Object.entries(api.paths).flatMap(([path, item]) =>
    ORDER.flatMap((method): Entry[] => {
      const operation = item[method];
      return operation === undefined ? [] : [{ path, method, operation }];
    }),
  );
  return api.tags
    .map(({ name, description = "" }) => ({ name, description, entries: entries.filter((entry) => entry.operation.tags[0] === name) }))
    .filter((group) => group.entries.length > 0);
}

/** Whether an operation has all of these words, anywhere in what is said of it. */
export function matches({ path, method, operation }: Entry, words: string): boolean {
  const { operationId, summary, description, tags, parameters = [] } = operation;
  const said = [method, path, operationId, summary, description ?? "", ...tags, ...parameters.map(({ name }) => name)].join("\n").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => said.includes(word));
}

/** The name in a reference to a schema. */
export const nameOf = (schema: Schema): string | null => schema.$ref?.split("/").at(-1) ?? null;

/** A schema itself where it is referred to. */
export function resolve(api: OpenApi, schema: Schema): Schema {
  const name = nameOf(schema);
  return name === null ? schema : (api.components.schemas[name] ?? {});
}

const typesOf = ({ type }: Schema): string[] => (type === undefined ? [] : Array.isArray(type) ? type : [type]);

/** The type of a value in words. */
export function typeOf(schema: Schema): string {
  const name = nameOf(schema);
  if (name !== null) return name;
  const choices = schema.oneOf ?? schema.anyOf;
  if (choices !== undefined) return [...new Set(choices.map(typeOf))].join(t.type.or);
  if (schema.allOf !== undefined) return schema.allOf.map(nameOf).find((one) => one !== null) ?? "object";
  const types = typesOf(schema).map((type) => {
    if (type === "array") return t.type.arrayOf(schema.items === undefined ? t.type.any : typeOf(schema.items));
    const values = schema.additionalProperties;
    if (type === "object" && typeof values === "object" && schema.properties === undefined) return t.type.mapOf(typeOf(values));
    return type;
  });
  return types.length === 0 ? t.type.any : types.join(t.type.or);
}

function bounds(least: number | undefined, most: number | undefined): string | null {
  // What no number here can be says nothing.
  const high = most !== undefined && most > Number.MAX_SAFE_INTEGER ? undefined : most;
  const low = least === 0 && high === undefined ? undefined : least;
  if (low !== undefined && high !== undefined) return t.rule.from(low, high);
  if (low !== undefined) return t.rule.atLeast(low);
  return high === undefined ? null : t.rule.atMost(high);
}

/** How large something must be, and how to say it. */
function sizes(least: number | undefined, most: number | undefined, say: (rule: string) => string): [string | null, ((rule: string) => string)?] {
  return least === 1 && most === undefined ? [t.rule.notEmpty] : [bounds(least, most), say];
}

/** What a value must keep to, in words. */
export function rulesOf(schema: Schema): string[] {
  const rules: string[] = [];
  const add = (rule: string | null, say: (rule: string) => string = (same) => same) => {
    if (rule !== null) rules.push(say(rule));
  };
  add(bounds(schema.minimum, schema.maximum));
  add(...sizes(schema.minLength, schema.maxLength, t.rule.characters));
  add(...sizes(schema.minItems, schema.maxItems, t.rule.items));
  add(bounds(schema.minProperties, schema.maxProperties), t.rule.members);
  if (schema.pattern !== undefined && schema.pattern !== "\\S") rules.push(`${t.rule.matches} ${schema.pattern}`);
  return rules;
}

/** The schemas that one is of, beyond its own members: what it refers to and what its arrays and forms are of. Those without
    anything to show are left out. */
export function within(api: OpenApi, schema: Schema): Schema[] {
  const parts = [...(schema.oneOf ?? []), ...(schema.anyOf ?? []), ...(schema.items === undefined ? [] : [schema.items])];
  if (typeof schema.additionalProperties === "object") parts.push(schema.additionalProperties);
  return parts.filter((part) => hasMembers(api, part));
}

/** Whether there is more to show of a schema than its type. */
export function hasMembers(api: OpenApi, schema: Schema): boolean {
  const { properties, patternProperties, allOf, enum: values, ...rest } = resolve(api, schema);
  if (properties !== undefined || patternProperties !== undefined || allOf !== undefined) return true;
  if (values !== undefined) return true;
  return within(api, rest).length > 0;
}

/** The members of a schema, those first that must be there. */
export function membersOf({ properties = {}, required = [] }: Schema): [string, Schema][] {
  const members = Object.entries(properties);
  const must = ([name]: [string, Schema]) => required.includes(name);
  return [...members.filter(must), ...members.filter((member) => !must(member))];
}

/** A command that sends the example of an operation to this service. */
export function curlOf({ path, method, operation }: Entry, base: string): string {
  const quote = (text: string) => `'${text.replaceAll("'", `'\\''`)}'`;
  const place = path.replace(/\{(\w+)\}/g, (_, name: string) => {
    const example = operation.parameters?.find((one) => one.name === name && one.in === "path")?.example;
    return String(example ?? name);
  });
  const parts = [`curl ${method === "get" ? "" : `-X ${method.toUpperCase()} `}${quote(base + place)}`];
  if ((operation.security ?? []).length > 0) parts.push(`-H "Authorization: Bearer $KEY"`);
  const [body] = Object.entries(operation.requestBody?.content ?? {});
  if (body !== undefined) {
    const [type, { example }] = body;
    parts.push(`-H ${quote(`Content-Type: ${type}`)}`);
    if (example !== undefined) parts.push(`--data-binary ${quote(typeof example === "string" ? example : JSON.stringify(example))}`);
  }
  return parts.join(" \\\n  ");
}
