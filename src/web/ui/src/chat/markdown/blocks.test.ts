import { describe, expect, it } from "vitest";
import { BlockSplitter, complete, marked, steady } from "./blocks";

const kinds = (blocks: { type: string }[]) => blocks.map((block) => block.type);

const sample = [
  "# Heading", "", "A paragraph with **bold**, `code` and [1].", "It goes on.", "", "- one", "- two", "  - nested", "", "  more of two", "", "1. first", "2. second", "",
  "| a | b |", "| --- | --- |", "| 1 | 2 |", "", "```python", "def f():", "", "    return 1", "```", "", "> quoted", "", "---", "", "The end.",
].join("\n");

describe("BlockSplitter", () => {
  it("finds the same blocks whether a text grows or is there at once", () => {
    for (const step of [1, 3, 7, 50]) {
      const splitter = new BlockSplitter();
      for (let end = step; end < sample.length; end += step) splitter.update(sample.slice(0, end), false);
      const rest = splitter.update(sample, true);
      const all = [...splitter.finished, ...rest];
      expect(all.map((block) => block.raw.trim()), `in steps of ${step}`).toEqual(marked.lexer(sample).filter((token) => token.type !== "space").map((token) => token.raw.trim()));
    }
  });

  it("never takes a finished block back", () => {
    const splitter = new BlockSplitter();
    let before: string[] = [];
    for (let end = 1; end <= sample.length; end++) {
      splitter.update(sample.slice(0, end), false);
      const now = splitter.finished.map((block) => block.raw);
      expect(now.slice(0, before.length)).toEqual(before);
      before = now;
    }
    expect(before.length).toBeGreaterThan(7);
  });

  it("gives the last block the kind it will have", () => {
    const last = (text: string) => kinds(new BlockSplitter().update(text, false));
    expect(last("| a | b")).toEqual(["table"]);
    expect(last("| a | b |\n| -")).toEqual(["table"]);
    expect(last("```js\nlet a")).toEqual(["code"]);
    expect(last("text\n-")).toEqual(["paragraph"]);
    expect(last("##")).toEqual([]);
  });

  it("counts in texts with other line ends", () => {
    const splitter = new BlockSplitter();
    splitter.update("one\r\n\r\ntwo\r\n\r\nthr", false);
    expect(splitter.update("one\r\n\r\ntwo\r\n\r\nthree", true).map((block) => block.raw)).toEqual(["three"]);
    expect(splitter.finished.map((block) => block.raw)).toEqual(["one", "two"]);
  });

  it("begins anew with another text", () => {
    const splitter = new BlockSplitter();
    splitter.update("one\n\ntwo\n\nthree", false);
    const rest = splitter.update("other", true);
    expect([...splitter.finished, ...rest].map((block) => block.raw)).toEqual(["other"]);
  });

  it("reads a definition of a link as text", () => {
    expect(kinds(new BlockSplitter().update("See [1].\n\n[1]: javascript:alert(1)", true))).toEqual(["paragraph", "paragraph"]);
  });
});

describe("steady", () => {
  it("holds back what may become anything", () => {
    expect(steady("See [1")).toBe("See ");
    expect(steady("See [1, ")).toBe("See ");
    expect(steady("a\n-")).toBe("a\n");
    expect(steady("a\n12.")).toBe("a\n");
    expect(steady("a\n```py")).toBe("a\n");
    expect(steady("a **")).toBe("a ");
  });

  it("keeps what is settled", () => {
    expect(steady("See [1]")).toBe("See [1]");
    expect(steady("**so**")).toBe("**so**");
    expect(steady("a\n- b")).toBe("a\n- b");
  });
});

describe("complete", () => {
  it("closes what is open", () => {
    expect(complete("so **very")).toBe("so **very**");
    expect(complete("so **very *much")).toBe("so **very *much***");
    expect(complete("the `code")).toBe("the `code`");
    expect(complete("the `a ** b")).toBe("the `a ** b`");
    expect(complete("see [the page](https://exa")).toBe("see the page");
  });

  it("leaves alone what is whole", () => {
    for (const text of ["a **b** c", "2 * 3", "`a` and `b`", "\\*not", "- item\n- *b*", "* item"]) expect(complete(text)).toBe(text);
  });
});
