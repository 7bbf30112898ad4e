import { describe, expect, it } from "vitest";
import { webAddress } from "./passage";

describe("the address of an original", () => {
  it("is one of the web that can be read", () => {
    expect(webAddress("https://example.org/a b")).toBe("https://example.org/a b");
    for (const wrong of [null, undefined, "", "javascript:alert(1)", "file:///etc/passwd", "http://", "https://[", "https://a:b:c"]) expect(webAddress(wrong)).toBeNull();
  });
});
