import { describe, expect, it } from "vitest";
import { morph } from "./morph";

const of = (html: string) => {
  const box = document.createElement("div");
  box.innerHTML = html;
  return box;
};

describe("morph", () => {
  it("gives the wanted tree", () => {
    const cases: [string, string][] = [
      ["", "<p>a</p>"],
      ["<p>a</p><p>b</p>", "<p>a</p>"],
      ["<p>a</p>", "<ul><li>a</li></ul>"],
      ['<a href="x" class="y">t</a>', '<a href="z">t</a>'],
      ["<p>a <b>b</b></p>", "<p>a b <i>c</i> d</p>"],
      ["text", "<p>text</p>tail"],
    ];
    for (const [from, to] of cases) {
      const target = of(from);
      morph(target, of(to));
      expect(target.innerHTML).toBe(to);
    }
  });

  it("keeps the nodes that stay, and adds to a text that grows", () => {
    const target = of("<ul><li>one</li><li>tw</li></ul>");
    const [first, second] = target.querySelectorAll("li");
    const text = second!.firstChild;
    morph(target, of("<ul><li>one</li><li>two</li><li>three</li></ul>"));
    expect([...target.querySelectorAll("li")].slice(0, 2)).toEqual([first, second]);
    expect(second!.firstChild).toBe(text);
    expect(text?.textContent).toBe("two");
  });
});
