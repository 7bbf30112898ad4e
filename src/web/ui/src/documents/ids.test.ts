import { describe, expect, it } from "vitest";
import { idOf, isCollection, mediaTypeOf, wrongWith } from "./ids";

describe("the id of a file", () => {
  it("is its path", () => {
    expect(idOf("handbook/travel.md")).toBe("handbook/travel.md");
    expect(idOf("travel.md", "hr/2026")).toBe("hr/2026/travel.md");
    expect(idOf("Über uns/日本 語.md")).toBe("Über uns/日本 語.md");
  });

  it("never leaves its place and has no segment that the service refuses", () => {
    expect(idOf("../../etc/passwd")).toBe("etc/passwd");
    expect(idOf("/a//b/./c/")).toBe("a/b/c");
    expect(idOf("a\\b\\c.md")).toBe("a/b/c.md");
    expect(idOf(" a / b\u0000\n.md ")).toBe("a/b .md");
  });

  it("is written one way only, whatever the file system makes of accents", () => {
    expect(idOf("u\u0308ber.md")).toBe("\u00fcber.md");
  });

  it("is none where nothing is left or it is too long", () => {
    expect(idOf("")).toBeNull();
    expect(idOf("../..", "hr")).toBeNull();
    expect(idOf("x".repeat(513))).toBeNull();
    expect(idOf("ü".repeat(257))).toBeNull();
    expect(idOf("ü".repeat(256))).toHaveLength(256);
  });

  it("passes the rules of an id, whatever the name", () => {
    for (const name of ["<img src=x onerror=alert(1)>.md", "a\u202eb.md", "\ud800.md", "a\tb", "?#%&+.md", "...", " . "]) {
      const id = idOf(`folder/${name}`);
      expect(id && wrongWith(id), name).toBeNull();
    }
  });
});

it("says what is wrong with an id that was typed in", () => {
  expect(wrongWith("")).toBe("empty");
  expect(wrongWith("x".repeat(513))).toBe("long");
  expect(wrongWith("a\nb")).toBe("control");
  expect(wrongWith(" a")).toBe("space");
  for (const id of ["/a", "a/", "a//b", "a/../b", "."]) expect(wrongWith(id)).toBe("segment");
  expect(wrongWith("a b/c.md")).toBeNull();
});

it("knows the names that a collection may have", () => {
  for (const name of ["a", "hr-2026_x", "a".repeat(64)]) expect(isCollection(name)).toBe(true);
  for (const name of ["", "HR", "a b", "a/b", "a".repeat(65)]) expect(isCollection(name)).toBe(false);
});

it("a JSON file is not sent as an envelope", () => {
  expect(mediaTypeOf("application/json")).toBe("application/octet-stream");
  expect(mediaTypeOf("")).toBe("application/octet-stream");
  expect(mediaTypeOf("text/markdown")).toBe("text/markdown");
});
