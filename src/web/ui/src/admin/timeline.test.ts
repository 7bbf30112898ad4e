import { expect, it } from "vitest";
import type { Incident } from "./status";
import { entries, outages } from "./timeline";

const at = (at_ms: number, actor: string, what: Incident["what"], message: string | null = null): Incident => ({ at_ms, actor, what, message });

it("an outage is one entry, with its end", () => {
  const found = entries([at(1, "a", "started"), at(10, "a", "panicked", "boom"), at(11, "b", "started"), at(15, "a", "recovered")]);
  expect(found.map((entry) => [entry.actor, entry.what, entry.recovered_ms])).toEqual([
    ["b", "started", undefined],
    ["a", "panicked", 15],
    ["a", "started", undefined],
  ]);
});

it("an outage that lasts has no end", () => {
  expect(entries([at(10, "a", "died", "gone")])[0]?.recovered_ms).toBeNull();
});

it("the same outage again is counted, and counts as over only when the last one is", () => {
  const [entry, ...others] = entries([
    at(10, "a", "panicked", "boom"), at(11, "a", "recovered"), at(20, "a", "panicked", "boom"), at(30, "a", "panicked", "boom"),
  ]);
  expect(others).toEqual([]);
  expect(entry).toMatchObject({ times: 3, at_ms: 10, last_ms: 30, recovered_ms: null });
});

it("another message is another entry", () => {
  expect(entries([at(10, "a", "panicked", "boom"), at(20, "a", "panicked", "bang")])).toHaveLength(2);
});

it("a failure on the way back belongs to the same outage", () => {
  const incidents = [at(10, "a", "panicked", "boom"), at(12, "a", "failed", "no file"), at(20, "a", "recovered"), at(30, "a", "lost")];
  expect(outages(incidents)).toEqual([
    { actor: "a", from_ms: 10, to_ms: 20 },
    { actor: "a", from_ms: 30, to_ms: null },
  ]);
  expect(entries(incidents).map((entry) => [entry.what, entry.recovered_ms])).toEqual([["lost", null], ["failed", 20], ["panicked", 20]]);
});

it("what is stopped did not recover", () => {
  expect(entries([at(10, "a", "panicked", "boom"), at(20, "a", "stopped")]).map((entry) => [entry.what, entry.recovered_ms])).toEqual([
    ["stopped", undefined],
    ["panicked", null],
  ]);
});
