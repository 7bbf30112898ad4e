import { describe, expect, it } from "vitest";
import { curlOf, groupsOf, hasMembers, matches, membersOf, rulesOf, typeOf, type Entry, type OpenApi, type Operation } from "./openapi";

const operation = (operationId: string, tag: string, more: Partial<Operation> = {}): Operation => ({ operationId, tags: [tag], summary: `Do ${operationId}`, responses: {}, ...more });

const api: OpenApi = {
  info: { title: "answerd", version: "1" },
  tags: [{ name: "b" }, { name: "a", description: "First of all." }, { name: "empty" }],
  paths: {
    "/x/{id}": { delete: operation("drop", "a"), get: operation("look", "a", { parameters: [{ name: "after", in: "query" }] }) },
    "/y": { post: operation("make", "b") },
  },
  components: { schemas: { One: { type: "object", properties: { n: { type: "integer" } } }, Text: { type: "string" } } },
};

const entry = (more: Partial<Operation> = {}): Entry => ({ path: "/x/{id}", method: "put", operation: operation("put", "a", more) });

describe("the reference", () => {
  it("is shown by groups, in their order, and none that is empty", () => {
    const groups = groupsOf(api).map(({ name, entries }) => [name, entries.map(({ operation }) => operation.operationId)]);
    expect(groups).toEqual([["b", ["make"]], ["a", ["look", "drop"]]]);
  });

  it("is searched for all words, wherever they stand", () => {
    const [, a] = groupsOf(api);
    const found = (words: string) => a!.entries.filter((one) => matches(one, words)).map(({ operation }) => operation.operationId);
    expect(found("")).toEqual(["look", "drop"]);
    expect(found("GET after")).toEqual(["look"]);
    expect(found("drop after")).toEqual([]);
  });

  it("says types in words", () => {
    expect(typeOf({ $ref: "#/components/schemas/One" })).toBe("One");
    expect(typeOf({ type: ["string", "null"] })).toBe("string or null");
    expect(typeOf({ type: "array", items: { $ref: "#/components/schemas/One" } })).toBe("array of One");
    expect(typeOf({ oneOf: [{ type: "null" }, { $ref: "#/components/schemas/One" }] })).toBe("null or One");
    expect(typeOf({ type: "object", additionalProperties: { type: "number" } })).toBe("object of number");
    expect(typeOf({})).toBe("anything");
  });

  it("says rules in words", () => {
    expect(rulesOf({ minimum: 0 })).toEqual([]);
    expect(rulesOf({ minimum: 0, maximum: 2 ** 63 })).toEqual([]);
    expect(rulesOf({ minimum: 0, maximum: 2, maxItems: 4, minLength: 1 })).toEqual(["0 to 2", "not empty", "at most 4 items"]);
  });

  it("shows first what must be there", () => {
    const schema = { properties: { a: {}, z: {}, b: {} }, required: ["z"] };
    expect(membersOf(schema).map(([name]) => name)).toEqual(["z", "a", "b"]);
  });

  it("knows what has more to show than its type", () => {
    expect(hasMembers(api, { $ref: "#/components/schemas/One" })).toBe(true);
    expect(hasMembers(api, { $ref: "#/components/schemas/Text" })).toBe(false);
    expect(hasMembers(api, { type: "array", items: { $ref: "#/components/schemas/One" } })).toBe(true);
  });

  it("gives a command that a shell takes as it is", () => {
    const body = { content: { "text/markdown": { example: "It's here" } } };
    const more = { parameters: [{ name: "id", in: "path", example: "a/b.md" }], requestBody: body, security: [{ bearer: [] }] };
    expect(curlOf(entry(more), "http://x")).toBe(
      `curl -X PUT 'http://x/x/a/b.md' \\\n  -H "Authorization: Bearer $KEY" \\\n  -H 'Content-Type: text/markdown' \\\n  --data-binary 'It'\\''s here'`,
    );
  });
});
