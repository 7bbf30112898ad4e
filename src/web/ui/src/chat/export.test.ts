import { describe, expect, it } from "vitest";
import { asked } from "./answer";
import { asMarkdown, fileName } from "./export";

describe("export", () => {
  it("writes a conversation as Markdown, with its sources", () => {
    const source = { n: 1, document_id: "a/b.md", title: "B", section: ["B", "C"], page: 3, url: null, snippet: "", revision: 1, start: 0, end: 1 };
    const text = asMarkdown({
      id: "x", title: "Title", createdMs: 0, updatedMs: 0,
      turns: [{ id: "1", question: "One\ntwo?", collections: [], answer: { ...asked(0), state: "done", text: "Yes [1].", sources: [source] } }],
    });
    expect(text).toMatch(/^# Title\n/);
    expect(text).toContain("> One\n> two?\n\nYes [1].\n\nSources:\n\n1. B (a/b.md, C, page 3)\n");
  });

  it("makes names of files that every system takes", () => {
    expect(fileName("What's “new”: ../é/日本?")).toBe("what-s-new-é-日本");
    expect(fileName("???")).toBe("conversation");
  });
});
