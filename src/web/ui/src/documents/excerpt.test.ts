import { expect, it } from "vitest";
import { excerpt } from "./excerpt";

const long = `${"filler words here. ".repeat(40)}The zebra met the quagga. ${"more filler. ".repeat(40)}`;

it("a short text is shown whole, on one line", () => {
  expect(excerpt("# Title\n\nOne\ttwo\n three ", ["one"], 100)).toBe("Title One two three");
});

it("shows the part with the most of the words", () => {
  const shown = excerpt(`zebra ${long}`, ["zebra", "quagga"], 120);
  expect(shown).toContain("zebra met the quagga");
  expect(shown).toMatch(/^… .* …$/);
});

it("begins at the beginning where no word is found", () => {
  expect(excerpt(long, ["absent"], 60)).toMatch(/^filler words .* …$/);
});

it("is about as long as asked, whatever the text", () => {
  for (const text of [long, "x".repeat(5000), "zebra ".repeat(2000), "ab ".repeat(2000)]) {
    for (const length of [20, 100, 320]) expect(excerpt(text, ["zebra", "x"], length).length).toBeLessThanOrEqual(length + 4);
  }
});
