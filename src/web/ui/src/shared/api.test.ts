import { describe, expect, it } from "vitest";
import { documentPath } from "./api";

describe("the path of a document", () => {
  it("keeps the slashes of its id and encodes the rest", () => {
    expect(documentPath("a b/c#d/..e/f?.md")).toBe("v1/documents/a%20b/c%23d/..e/f%3F.md");
  });

  it("is refused where a browser would make another one of it", () => {
    for (const id of ["..", "a/../../keys", "./a"]) expect(() => documentPath(id)).toThrow("This cannot be the id of a document");
  });
});
