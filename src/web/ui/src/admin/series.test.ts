import { expect, it } from "vitest";
import { Series } from "./series";

it("takes over an hour and goes on with samples", () => {
  const series = new Series();
  series.load({ interval_ms: 5000, at_ms: [5000, 10_000], series: { waiting: [1, null] } });
  expect(series.push({ at_ms: 15_000, waiting: 3 })).toBe(true);
  expect(series.columns(["waiting"])).toEqual([[5, 10, 15], [1, null, 3]]);
  expect([series.value("waiting"), series.value("waiting", 0), series.value("other")]).toEqual([3, 1, null]);
  expect([series.time_ms(), series.time_ms(1), series.time_ms(9)]).toEqual([15_000, 10_000, null]);
});

it("knows a sample only once", () => {
  const series = new Series();
  series.load({ interval_ms: 5000, at_ms: [5000], series: { waiting: [1] } });
  expect(series.push({ at_ms: 5000, waiting: 9 })).toBe(false);
  expect(series.push({ at_ms: 4000, waiting: 9 })).toBe(false);
  expect(series.columns(["waiting"])).toEqual([[5], [1]]);
});

it("shows a gap where samples are missing", () => {
  const series = new Series();
  series.push({ at_ms: 5000, waiting: 1 });
  series.push({ at_ms: 60_000, waiting: 2 });
  expect(series.columns(["waiting"])).toEqual([[5, 10, 60], [1, null, 2]]);
});

it("keeps what came after the history that it is given after a reconnection", () => {
  const series = new Series();
  series.push({ at_ms: 5000, waiting: 1 });
  series.push({ at_ms: 15_000, waiting: 3 });
  series.load({ interval_ms: 5000, at_ms: [5000, 10_000], series: { waiting: [1, 2] } });
  expect(series.columns(["waiting"])).toEqual([[5, 10, 15], [1, 2, 3]]);
});

it("a series that appears later was nothing before, one that is unknown is nothing at all", () => {
  const series = new Series();
  series.push({ at_ms: 5000, waiting: 1 });
  series.push({ at_ms: 10_000, running: 2 });
  expect(series.columns(["waiting", "running", "other"])).toEqual([[5, 10], [1, null], [null, 2], [null, null]]);
});

it("scales values and leaves gaps alone", () => {
  const series = new Series();
  series.push({ at_ms: 5000, input_tokens: 50 });
  series.push({ at_ms: 10_000, input_tokens: null });
  expect(series.columns(["input_tokens"], (_, value) => value / 5)).toEqual([[5, 10], [10, null]]);
});

it("is no larger after a day", () => {
  const series = new Series();
  for (let n = 1; n <= 17_280; n++) series.push({ at_ms: n * 5000, a: n, b: null });
  expect(series.length).toBe(720);
  const [times, a, b] = series.columns(["a", "b"]);
  expect([times.length, a?.length, b?.length]).toEqual([720, 720, 720]);
  expect(times.at(-1)).toBe(86_400);
  expect(a?.at(-1)).toBe(17_280);
});

it("takes no more than it keeps from a longer history", () => {
  const series = new Series(3);
  series.load({ interval_ms: 5000, at_ms: [5000, 10_000, 15_000, 20_000], series: { a: [1, 2, 3, 4] } });
  expect(series.columns(["a"])).toEqual([[10, 15, 20], [2, 3, 4]]);
});
