import { expect, it } from "vitest";
import { Rates } from "./rates";

const counters = (handled: number) => new Map([["a", handled]]);

it("is the growth in a second over the window", () => {
  const rates = new Rates(10_000);
  rates.add(1000, counters(100));
  expect(rates.of("a")).toBeNull();
  rates.add(2000, counters(110));
  expect(rates.of("a")).toBe(10);
  rates.add(4000, counters(110));
  expect(rates.of("a")).toBeCloseTo(10 / 3);
});

it("forgets what was before the window", () => {
  const rates = new Rates(10_000);
  rates.add(0, counters(0));
  rates.add(1000, counters(1000));
  for (let second = 2; second <= 30; second++) rates.add(second * 1000, counters(1000));
  expect(rates.of("a")).toBe(0);
});

it("begins anew when the process was started again", () => {
  const rates = new Rates();
  rates.add(0, counters(500));
  rates.add(1000, counters(3));
  expect(rates.of("a")).toBeNull();
  rates.add(2000, counters(5));
  expect(rates.of("a")).toBe(2);
});

it("begins anew when the clock is set back", () => {
  const rates = new Rates();
  rates.add(5000, counters(1));
  rates.add(1000, counters(2));
  expect(rates.of("a")).toBeNull();
});

it("measures a counter from when it appeared", () => {
  const rates = new Rates();
  rates.add(0, counters(0));
  rates.add(1000, new Map([["a", 1], ["b", 7]]));
  expect(rates.of("b")).toBeNull();
  rates.add(2000, new Map([["a", 1], ["b", 9]]));
  expect(rates.of("b")).toBe(2);
  expect(rates.of("c")).toBeNull();
});

it("keeps no more readings than the window has", () => {
  const rates = new Rates(10_000);
  for (let second = 0; second < 10_000; second++) rates.add(second * 1000, counters(second));
  expect((rates as unknown as { readings: unknown[] }).readings.length).toBeLessThanOrEqual(12);
});
