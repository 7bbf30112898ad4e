import { describe, expect, it } from "vitest";
import { ago } from "./ago";
import { bytes, compact, duration, number, percent, plural } from "./format";

describe("format", () => {
  it("counts in words", () => {
    expect(plural(1, "token", "tokens")).toBe("1 token");
    expect(plural(12_345, "token", "tokens")).toBe("12,345 tokens");
  });

  it("keeps as many digits as are of use", () => {
    expect([0.1234, 12.34, 1234.5].map(number)).toEqual(["0.12", "12.3", "1,235"]);
    expect([950, 1234, 3_400_000].map(compact)).toEqual(["950", "1.2K", "3.4M"]);
    expect(percent(0.1234)).toBe("12.3 %");
  });

  it("gives sizes in binary units", () => {
    expect([0, 1023, 1024, 1536, 5 * 1024 ** 3].map(bytes)).toEqual(["0 B", "1,023 B", "1 KiB", "1.5 KiB", "5 GiB"]);
  });

  it("gives times by their two largest units", () => {
    expect([0.25, 340, 999.4, 999.6, 1500, 12_345, 59_600, 125_000, 3_600_000, 11_400_000, 90_000_000].map(duration)).toEqual([
      "0.25 ms", "340 ms", "999 ms", "1.0 s", "1.5 s", "12 s", "1 min", "2 min 5 s", "1 h", "3 h 10 min", "1 d 1 h",
    ]);
  });

  it("says how long ago, and a date once that is long", () => {
    const now = Date.UTC(2026, 10, 25, 12);
    expect([3, 42, 180, 7200].map((seconds) => ago(now - seconds * 1000, now))).toEqual(["now", "42 s ago", "3 min ago", "2 h ago"]);
    expect(ago(now - 3 * 86_400_000, now)).toBe("Nov 22, 2026");
  });
});
