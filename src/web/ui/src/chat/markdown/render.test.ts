import { describe, expect, it } from "vitest";
import { marked } from "./blocks";
import { renderBlock } from "./render";

function render(text: string, sources: [number, string][] = []): HTMLElement {
  const box = document.createElement("div");
  for (const block of marked.lexer(text)) if (block.type !== "space") box.append(renderBlock(block, { sources: new Map(sources), highlight: null }));
  return box;
}

describe("rendering", () => {
  it("makes elements of Markdown", () => {
    const box = render("# T\n\nA **b** *c* ~~d~~ `e`\n\n- x\n- [ ] y\n\n| a |\n| --- |\n| 1 |\n\n```sh\nls\n```");
    expect(box.querySelector("h3")?.textContent).toBe("T");
    expect(["strong", "em", "del", "p > code", "li", ".table[tabindex] > table td", ".code pre code"].filter((what) => box.querySelector(what) === null)).toEqual([]);
    expect(box.querySelector(".code-head span")?.textContent).toBe("sh");
    expect(box.textContent).toContain("☐ y");
  });

  it("keeps the alignment of columns and the first number of a list", () => {
    const box = render("| a |\n| ---: |\n| 1 |\n\n7. seven");
    expect(box.querySelector("td")?.getAttribute("align")).toBe("right");
    expect(box.querySelector("ol")?.getAttribute("start")).toBe("7");
  });

  it("shows HTML as text", () => {
    const box = render('<script>alert(1)</script>\n\n<img src=x onerror="alert(2)"> and <b onclick="alert(3)">bold</b>');
    expect(box.querySelector("script, img, b")).toBeNull();
    expect(box.textContent).toContain("<script>alert(1)</script>");
    expect(box.textContent).toContain('<b onclick="alert(3)">bold</b>');
  });

  it("lets a line break through, which models write in tables", () => {
    expect(render("| a |\n| --- |\n| 1<br>2 |").querySelector("td br")).not.toBeNull();
  });

  it("makes links of web and mail addresses only, with their host", () => {
    const box = render("[a](https://example.org/x) [b](javascript:alert(1)) [c](data:text/html,x) [d](mailto:a@b.example) [e](JaVaScRiPt&colon;alert(1)) <vbscript:x> [f](//evil.example)");
    const links = [...box.querySelectorAll("a")];
    expect(links.map((link) => link.getAttribute("href"))).toEqual(["https://example.org/x", "mailto:a@b.example"]);
    expect(links[0]?.textContent).toBe("a (example.org)");
    expect(links.every((link) => link.rel === "noopener noreferrer nofollow" && link.target === "_blank")).toBe(true);
    expect(box.textContent).toContain("b ");
  });

  it("says the host of a link whose text only looks like it", () => {
    const text = (markdown: string) => render(markdown).querySelector("a")?.textContent;
    expect(text("https://example.org/a?b=c")).toBe("https://example.org/a?b=c");
    expect(text("[example.org](https://example.org/x)")).toBe("example.org");
    expect(text("[a@b.example](mailto:a@b.example)")).toBe("a@b.example");
    expect(text("[https://bank.example/evil.example](https://evil.example)")).toBe("https://bank.example/evil.example (evil.example)");
    expect(text("[bank.example (not evil.example)](https://evil.example)")).toMatch(/ \(evil\.example\)$/);
    expect(text("[https://bank.example@evil.example](https://evil.example)")).toMatch(/ \(evil\.example\)$/);
    expect(text("[https://b\u0430nk.example](https://b\u0430nk.example)")).toMatch(/ \(xn--bnk-6cd\.example\)$/);
  });

  it("loads no images", () => {
    const box = render("![secret](https://evil.example/?q=1) ![x](javascript:alert(1))");
    expect(box.querySelector("img")).toBeNull();
    expect(box.querySelector("a")?.textContent).toBe("secret (evil.example)");
  });

  it("does not let code break out of its language", () => {
    const box = render('```"><img src=x onerror=alert(1)>\n</code></pre><img src=x onerror=alert(1)>\n```');
    expect(box.querySelector("img")).toBeNull();
    expect(box.querySelector("pre code")?.textContent).toBe("</code></pre><img src=x onerror=alert(1)>\n");
  });
});

describe("citations", () => {
  const sources: [number, string][] = [[1, "One"], [2, "Two <b>"], [12, "Twelve"]];
  const numbers = (text: string) => [...render(text, sources).querySelectorAll(".cite")].map((chip) => chip.textContent);

  it("become buttons", () => {
    expect(numbers("So [1], and so [1, 12][2].")).toEqual(["1", "1", "12", "2"]);
    expect(render("[2]", sources).querySelector(".cite")?.getAttribute("aria-label")).toBe("Source 2: Two <b>");
  });

  it("stay text where there is no such source", () => {
    expect(numbers("[7] [1, 7] [0]")).toEqual([]);
    expect(render("[1, 7]", sources).textContent).toBe("[1, 7]\n");
  });

  it("stay text in code and links", () => {
    expect(numbers("`a[1]` [see [1] here](https://example.org)\n\n```\nb[1]\n```")).toEqual([]);
  });

  it("are found in bold, lists and tables", () => {
    expect(numbers("**so [1]**\n\n- a [2]\n\n| x |\n| --- |\n| y [12] |")).toEqual(["1", "2", "12"]);
  });
});
