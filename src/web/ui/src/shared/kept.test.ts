import { describe, expect, it } from "vitest";
import { Kept } from "./kept";

describe("what the browser keeps", () => {
  it("is in its storage", () => {
    const kept = new Kept(() => sessionStorage);
    kept.set("a", "1");
    expect([kept.get("a"), sessionStorage.getItem("a"), kept.get("b")]).toEqual(["1", "1", null]);
    kept.remove("a");
    expect(kept.get("a")).toBeNull();
  });

  it("is in memory where that is blocked or full", () => {
    const full = { getItem: () => "old", setItem: () => { throw new DOMException("full", "QuotaExceededError"); }, removeItem: () => {} };
    const blocked = () => { throw new DOMException("blocked", "SecurityError"); };
    for (const storage of [blocked, () => full as unknown as Storage]) {
      const kept = new Kept(storage);
      kept.set("a", "1");
      expect(kept.get("a")).toBe("1");
      kept.remove("a");
      expect(kept.get("a")).not.toBe("1");
    }
  });
});
